// The disk cache under truncation, bit flips, kill -9, several processes, folders it must not use, and a full budget.
#include <flashinfer/jit/disk_cache.hpp>

#include <sys/wait.h>

#include <chrono>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "scale_kernel.hpp"

namespace flashinfer::jit {
namespace {

using jit_test::read_file;
using jit_test::TemporaryFolder;
using jit_test::write_file;

constexpr int64_t kPlenty = 1 << 30;

Cubin random_cubin(unsigned seed, size_t bytes) {
  std::mt19937 random(seed);
  Cubin cubin;
  for (size_t i = 0; i < bytes; ++i) cubin.code += char(random());
  cubin.log = "ptxas info " + std::to_string(seed);
  return cubin;
}
bool same(const Cubin& a, const Cubin& b) { return a.code == b.code && a.log == b.log; }

/// Runs `body` in a process of its own; its result is the exit code.
template <class Body>
pid_t in_child(Body&& body) {
  const pid_t child = fork();
  if (child == 0) {
    int code = 99;
    try {
      code = body();
    } catch (...) {
    }
    _exit(code);
  }
  return child;
}
int exit_code(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(DiskCache, GivesBackWhatWasStored) {
  const TemporaryFolder folder;
  const DiskCache cache(folder / "a/b/kernels", kPlenty);
  Cubin cubin;
  EXPECT_EQ(cache.load("key", cubin), Found::no);
  for (size_t bytes : {size_t(0), size_t(1), size_t(70000)}) {
    const Cubin stored = random_cubin(unsigned(bytes), bytes);
    ASSERT_TRUE(cache.store("key" + std::to_string(bytes), stored));
    ASSERT_EQ(cache.load("key" + std::to_string(bytes), cubin), Found::yes);
    EXPECT_TRUE(same(cubin, stored));
  }
  EXPECT_EQ(cache.load("key2", cubin), Found::no);
  EXPECT_EQ(cache.usage().entries, 3);
  EXPECT_EQ(cache.problem(), "");
  cache.clear();
  EXPECT_EQ(cache.usage().entries, 0);
}

TEST(DiskCache, FolderIsForItsUserAlone) {
  const TemporaryFolder folder;
  ASSERT_TRUE(DiskCache(folder / "kernels", kPlenty).store("key", random_cubin(1, 100)));
  struct stat status{};
  ASSERT_EQ(stat((folder / "kernels").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0700u);
  ASSERT_EQ(stat((folder / "kernels/key.cubin").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST(DiskCache, TruncatedEntriesAreMissesAndRemoved) {
  const TemporaryFolder folder;
  const DiskCache cache(folder / "kernels", kPlenty);
  const std::string file = folder / "kernels/key.cubin";
  cache.store("key", random_cubin(2, 50));
  const std::string whole = read_file(file);
  for (size_t size = 0; size < whole.size(); ++size) {
    write_file(file, whole.substr(0, size));
    Cubin cubin;
    ASSERT_EQ(cache.load("key", cubin), Found::corrupt) << size;
    ASSERT_FALSE(std::filesystem::exists(file)) << size;
  }
  write_file(file, whole + "x");
  Cubin cubin;
  EXPECT_EQ(cache.load("key", cubin), Found::corrupt);
  write_file(file, whole);
  EXPECT_EQ(cache.load("key", cubin), Found::yes);
}

TEST(DiskCache, EveryFlippedBitIsSeen) {
  const TemporaryFolder folder;
  const DiskCache cache(folder / "kernels", kPlenty);
  const std::string file = folder / "kernels/key.cubin";
  cache.store("key", random_cubin(3, 40));
  const std::string whole = read_file(file);
  for (size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string flipped = whole;
    flipped[bit / 8] = char(flipped[bit / 8] ^ 1 << bit % 8);
    write_file(file, flipped);
    Cubin cubin;
    ASSERT_EQ(cache.load("key", cubin), Found::corrupt) << "bit " << bit;
  }
}

TEST(DiskCache, KilledWritersLeaveNoPartialEntry) {
  const TemporaryFolder folder;
  const DiskCache cache(folder / "kernels", kPlenty);
  const auto start = std::chrono::steady_clock::now();
  ASSERT_TRUE(cache.store("another key", random_cubin(0, 300000)));
  const auto one_store = std::chrono::steady_clock::now() - start;  // without optimisation, thirty times as long
  int seen = 0;
  for (int round = 0; round < 20; ++round) {
    const pid_t child = in_child([&]() -> int {
      for (unsigned i = 0;; ++i) cache.store("key", random_cubin(i % 4, 300000));
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(2) + one_store * (round + 1) / 4);
    kill(child, SIGKILL);
    exit_code(child);
    Cubin cubin;
    const Found found = cache.load("key", cubin);
    ASSERT_NE(found, Found::corrupt) << round;
    seen += found == Found::yes;
  }
  EXPECT_GT(seen, 0);
}

TEST(DiskCache, ProcessesShareAKey) {
  const TemporaryFolder folder;
  std::vector<pid_t> children;
  for (int p = 0; p < 8; ++p)
    children.push_back(in_child([&, p] {
      const DiskCache cache(folder / "kernels", kPlenty);
      for (unsigned i = 0; i < 30; ++i) {
        if (!cache.store("key", random_cubin(unsigned(p), 20000))) return 1;
        Cubin cubin;
        if (cache.load("key", cubin) != Found::yes) return 2;
        const unsigned writer = unsigned(std::stoul(cubin.log.substr(11)));
        if (!same(cubin, random_cubin(writer, 20000))) return 3;
      }
      return 0;
    }));
  for (pid_t child : children) EXPECT_EQ(exit_code(child), 0);
  for (const auto& file : std::filesystem::directory_iterator(folder / "kernels")) EXPECT_EQ(file.path().extension(), ".cubin");
}

TEST(DiskCache, EvictsWhatWasUsedLongestAgo) {
  const TemporaryFolder folder;
  const DiskCache cache(folder / "kernels", 3 * 10000 + 3 * 200);
  auto age = [&](const char* key, time_t seconds) {
    const timespec past{time(nullptr) - seconds, 0};
    const timespec times[] = {past, past};
    utimensat(AT_FDCWD, (folder / ("kernels/" + std::string(key) + ".cubin")).c_str(), times, 0);
  };
  for (const char* key : {"a", "b", "c"}) ASSERT_TRUE(cache.store(key, random_cubin(4, 10000)));
  age("a", 300), age("b", 200), age("c", 100);
  Cubin cubin;
  ASSERT_EQ(cache.load("a", cubin), Found::yes);  // now b is the oldest
  ASSERT_TRUE(cache.store("d", random_cubin(5, 10000)));
  EXPECT_EQ(cache.load("b", cubin), Found::no);
  EXPECT_EQ(cache.load("a", cubin), Found::yes);
  EXPECT_EQ(cache.load("c", cubin), Found::yes);
  EXPECT_EQ(cache.load("d", cubin), Found::yes);
  EXPECT_FALSE(cache.store("large", random_cubin(6, 40000)));  // more than the budget: nothing is evicted for it
  EXPECT_EQ(cache.usage().entries, 3);
}

TEST(DiskCache, RemovesWhatKilledWritersLeft) {
  const TemporaryFolder folder;
  const DiskCache cache(folder / "kernels", kPlenty);
  ASSERT_TRUE(cache.store("key", random_cubin(7, 10)));
  for (const char* name : {"old.tmp", "old.lock", "new.tmp"}) write_file(folder / ("kernels/." + std::string(name)), "x");
  const timespec past{time(nullptr) - 7200, 0};
  const timespec times[] = {past, past};
  for (const char* name : {"old.tmp", "old.lock"}) utimensat(AT_FDCWD, (folder / ("kernels/." + std::string(name))).c_str(), times, 0);
  ASSERT_TRUE(cache.store("key2", random_cubin(8, 10)));
  EXPECT_FALSE(std::filesystem::exists(folder / "kernels/.old.tmp"));
  EXPECT_FALSE(std::filesystem::exists(folder / "kernels/.old.lock"));
  EXPECT_TRUE(std::filesystem::exists(folder / "kernels/.new.tmp"));
  EXPECT_EQ(cache.usage().entries, 2);
}

TEST(DiskCache, WorksWithoutAFolder) {
  const TemporaryFolder folder;
  write_file(folder / "file", "");
  Cubin cubin;
  for (const std::string& path : {folder / "file/kernels", folder / "file", std::string("/proc/flashinfer/kernels"), std::string()}) {
    const DiskCache cache(path, kPlenty);
    EXPECT_FALSE(cache.store("key", random_cubin(9, 10))) << path;
    EXPECT_EQ(cache.load("key", cubin), Found::no) << path;
    EXPECT_NE(cache.problem(), "") << path;
    const DiskCache::Turn turn(cache, "key", std::chrono::seconds(10));
  }
  EXPECT_FALSE(DiskCache(folder / "kernels", 0).store("key", random_cubin(9, 10)));
  EXPECT_FALSE(std::filesystem::exists(folder / "kernels"));
}

TEST(DiskCache, RefusesFoldersThatOthersCanWrite) {
  const TemporaryFolder folder;
  const DiskCache cache(folder / "kernels", kPlenty);
  const Cubin stored = random_cubin(10, 10);
  Cubin cubin;
  ASSERT_TRUE(cache.store("key", stored));
  for (mode_t mode : {0770, 0707, 0777}) {
    chmod((folder / "kernels").c_str(), mode);
    EXPECT_EQ(cache.load("key", cubin), Found::no) << mode;
    EXPECT_FALSE(cache.store("key", stored)) << mode;
  }
  EXPECT_NE(cache.problem().find("writable by others"), std::string::npos);
  chmod((folder / "kernels").c_str(), 0755);
  EXPECT_EQ(cache.load("key", cubin), Found::yes);
  std::filesystem::rename(folder / "kernels", folder / "elsewhere");
  std::filesystem::create_directory_symlink(folder / "elsewhere", folder / "kernels");
  EXPECT_EQ(cache.load("key", cubin), Found::no);
}

TEST(DiskCache, RefusesFoldersOfOtherUsers) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a folder away";
  const TemporaryFolder folder;
  const DiskCache cache(folder / "kernels", kPlenty);
  Cubin cubin;
  ASSERT_TRUE(cache.store("key", random_cubin(11, 10)));
  ASSERT_EQ(chown((folder / "kernels").c_str(), 12345, 12345), 0);
  EXPECT_EQ(cache.load("key", cubin), Found::no);
  EXPECT_FALSE(cache.store("key", random_cubin(11, 10)));
  EXPECT_NE(cache.problem().find("belongs to user 12345"), std::string::npos) << cache.problem();
}

TEST(DiskCache, TakingTurnsNeverBlocksForEver) {
  const TemporaryFolder folder;
  const DiskCache cache(folder / "kernels", kPlenty);
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t holder = in_child([&] {
    const DiskCache::Turn turn(cache, "key", std::chrono::seconds(10));
    if (write(ready[1], "x", 1) != 1) return 1;
    pause();
    return 0;
  });
  char byte;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  auto milliseconds = [&](const char* key, int limit) {
    const auto start = std::chrono::steady_clock::now();
    const DiskCache::Turn turn(cache, key, std::chrono::milliseconds(limit));
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start).count();
  };
  EXPECT_LT(milliseconds("another key", 60000), 30000);
  EXPECT_GE(milliseconds("key", 100), 100);
  kill(holder, SIGKILL);
  exit_code(holder);
  EXPECT_LT(milliseconds("key", 60000), 30000);  // the lock died with its holder
}

}  // namespace
}  // namespace flashinfer::jit

// Compiled kernels on disk. A reader sees a whole, checked entry or none, whoever wrote it and however it died. Host only.
//   entry   magic, code size, log size, SHA-256 of code and log, code, log
//   write   a temporary file, fsync, rename       read   verify; a bad entry is removed, and built again
// The folder belongs to the user alone: what is in it runs on the GPU with the user's rights.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <flashinfer/jit/nvrtc.hpp>
#include <flashinfer/jit/sha256.hpp>

namespace flashinfer::jit {

/// An open file or folder.
class Handle {
 public:
  explicit Handle(int fd = -1) : fd_(fd) {}
  Handle(Handle&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Handle() {
    if (fd_ >= 0) close(fd_);
  }
  explicit operator bool() const { return fd_ >= 0; }
  int get() const { return fd_; }

 private:
  int fd_;
};

enum class Found { no, yes, corrupt };

struct EntryHeader {
  char magic[8];
  uint64_t code_bytes, log_bytes;
  char checksum[64];  // hexadecimal, over code and log
};
inline constexpr char kEntryMagic[9] = "FICUBIN1";
inline constexpr uint64_t kLargestEntry = uint64_t(1) << 30;

inline std::string entry_name(const std::string& key) { return key + ".cubin"; }

/// Reads folder/name. With `touch`, marks it as used now, for the eviction of the others.
inline Found read_entry(int folder, const std::string& name, Cubin& cubin, bool touch = false) {
  const Handle file(openat(folder, name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file) return Found::no;
  auto read_whole = [&](void* to, size_t bytes) {
    for (size_t at = 0; at < bytes;) {
      const ssize_t n = read(file.get(), static_cast<char*>(to) + at, bytes - at);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      at += size_t(n);
    }
    return true;
  };
  EntryHeader header;
  struct stat status{};
  if (fstat(file.get(), &status) != 0 || !read_whole(&header, sizeof(header))) return Found::corrupt;
  if (std::memcmp(header.magic, kEntryMagic, 8) != 0 || header.code_bytes > kLargestEntry || header.log_bytes > kLargestEntry ||
      uint64_t(status.st_size) != sizeof(header) + header.code_bytes + header.log_bytes)
    return Found::corrupt;
  cubin.code.resize(header.code_bytes);
  cubin.log.resize(header.log_bytes);
  if (!read_whole(cubin.code.data(), cubin.code.size()) || !read_whole(cubin.log.data(), cubin.log.size())) return Found::corrupt;
  if (Sha256().update(cubin.code).update(cubin.log).hex() != std::string(header.checksum, sizeof(header.checksum))) return Found::corrupt;
  if (touch) futimens(file.get(), nullptr);
  return Found::yes;
}

/// Writes folder/name so that no one ever sees a part of it. False where the folder can not take it (full, read-only).
inline bool write_entry(int folder, const std::string& name, const Cubin& cubin, mode_t mode = 0600) {
  EntryHeader header;
  std::memcpy(header.magic, kEntryMagic, 8);
  header.code_bytes = cubin.code.size(), header.log_bytes = cubin.log.size();
  std::memcpy(header.checksum, Sha256().update(cubin.code).update(cubin.log).hex().data(), sizeof(header.checksum));
  const std::string bytes = std::string(reinterpret_cast<const char*>(&header), sizeof(header)) + cubin.code + cubin.log;

  static std::atomic<uint64_t> counter{0};
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  const std::string temporary =
      "." + name + "." + std::to_string(getpid()) + "." + std::to_string(now) + "." + std::to_string(counter.fetch_add(1)) + ".tmp";
  const Handle file(openat(folder, temporary.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, mode));
  if (!file) return false;
  bool good = true;
  for (size_t at = 0; good && at < bytes.size();) {
    const ssize_t n = write(file.get(), bytes.data() + at, bytes.size() - at);
    if (n < 0 && errno == EINTR) continue;
    good = n > 0;
    if (good) at += size_t(n);
  }
  good = good && fsync(file.get()) == 0 && renameat(folder, temporary.c_str(), folder, name.c_str()) == 0;
  if (!good) unlinkat(folder, temporary.c_str(), 0);
  return good;
}

class DiskCache {
 public:
  /// An empty path, or a capacity of 0: no cache, every load is a miss.
  DiskCache(std::string path, int64_t capacity_bytes) : path_(capacity_bytes > 0 ? std::move(path) : ""), capacity_(capacity_bytes) {}

  const std::string& path() const { return path_; }

  /// A corrupt entry is removed.
  Found load(const std::string& key, Cubin& cubin) const {
    const Handle folder = open_folder(false);
    if (!folder) return Found::no;
    const Found found = read_entry(folder.get(), entry_name(key), cubin, true);
    if (found == Found::corrupt) unlinkat(folder.get(), entry_name(key).c_str(), 0);
    return found;
  }

  /// Best effort: without a writable folder the kernel still runs, it is only compiled again by the next process.
  bool store(const std::string& key, const Cubin& cubin) const {
    if (int64_t(sizeof(EntryHeader) + cubin.code.size() + cubin.log.size()) > capacity_) return false;
    const Handle folder = open_folder(true);
    if (!folder || !write_entry(folder.get(), entry_name(key), cubin)) return false;
    evict(folder.get(), capacity_);
    return true;
  }

  /// Removes all entries.
  void clear() const {
    if (const Handle folder = open_folder(false)) evict(folder.get(), 0);
  }

  struct Usage {
    int64_t entries = 0, bytes = 0;
  };
  Usage usage() const {
    Usage usage;
    if (const Handle folder = open_folder(false))
      for (const File& file : files(folder.get()))
        if (file.is_entry) ++usage.entries, usage.bytes += file.bytes;
    return usage;
  }

  /// Why the folder is not used; empty if it is.
  std::string problem() const {
    std::string why;
    open_folder(true, &why);
    return why;
  }

  /// Held while one process compiles `key`, so that the eight workers of a server compile it once. Waits at most `limit`
  /// for the others: then, and where the file system has no locks, everyone compiles, which costs time and nothing else.
  class Turn {
   public:
    Turn(const DiskCache& cache, const std::string& key, std::chrono::milliseconds limit)
        : folder_(cache.open_folder(true)), name_("." + key + ".lock") {
      if (!folder_) return;
      file_ = openat(folder_.get(), name_.c_str(), O_CREAT | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
      const auto end = std::chrono::steady_clock::now() + limit;
      while (file_ >= 0 && flock(file_, LOCK_EX | LOCK_NB) != 0) {
        if ((errno != EWOULDBLOCK && errno != EINTR) || std::chrono::steady_clock::now() >= end) {
          close(file_), file_ = -1;
          return;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      }
    }
    /// The file goes before the lock does. One who locked the removed file then finds the finished entry.
    ~Turn() {
      if (file_ < 0) return;
      unlinkat(folder_.get(), name_.c_str(), 0);
      close(file_);
    }
    Turn(const Turn&) = delete;

   private:
    Handle folder_;
    std::string name_;
    int file_ = -1;
  };

 private:
  struct File {
    std::string name;
    bool is_entry;
    int64_t bytes;
    timespec used;
  };

  /// Opened anew for each operation (microseconds beside milliseconds), and checked on the open handle: the folder may be
  /// removed or replaced while we run.
  Handle open_folder(bool create, std::string* why = nullptr) const {
    auto refuse = [&](const std::string& reason) {
      if (why) *why = reason;
      return Handle();
    };
    if (path_.empty()) return refuse("no cache folder is set");
    if (create) {
      std::error_code ignored;
      std::filesystem::create_directories(std::filesystem::path(path_).parent_path(), ignored);
      mkdir(path_.c_str(), 0700);
    }
    Handle folder(open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!folder) return refuse(path_ + ": " + std::strerror(errno));
    struct stat status{};
    if (fstat(folder.get(), &status) != 0) return refuse(path_ + ": " + std::strerror(errno));
    if (status.st_uid != geteuid()) return refuse(path_ + " belongs to user " + std::to_string(status.st_uid));
    if (status.st_mode & (S_IWGRP | S_IWOTH)) return refuse(path_ + " is writable by others");
    return folder;
  }

  static std::vector<File> files(int folder) {
    std::vector<File> found;
    DIR* listing = fdopendir(openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!listing) return found;
    while (const dirent* item = readdir(listing)) {
      const std::string name = item->d_name;
      struct stat status{};
      if (fstatat(folder, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(status.st_mode)) continue;
      found.push_back({name, name[0] != '.' && name.ends_with(".cubin"), int64_t(status.st_size), status.st_mtim});
    }
    closedir(listing);
    return found;
  }

  /// Removes the entries that were used longest ago until the rest fits, and what killed processes left behind.
  static void evict(int folder, int64_t capacity) {
    std::vector<File> all = files(folder);
    std::sort(all.begin(), all.end(), [](const File& a, const File& b) {
      return a.used.tv_sec != b.used.tv_sec ? a.used.tv_sec > b.used.tv_sec : a.used.tv_nsec > b.used.tv_nsec;
    });
    constexpr time_t kStaleSeconds = 3600;
    int64_t bytes = 0;
    for (const File& file : all) {
      if (file.is_entry) bytes += file.bytes;
      const bool leftover = file.name.ends_with(".tmp") || file.name.ends_with(".lock");
      if (file.is_entry ? bytes > capacity : leftover && time(nullptr) - file.used.tv_sec > kStaleSeconds)
        unlinkat(folder, file.name.c_str(), 0);
    }
  }

  std::string path_;
  int64_t capacity_;
};

}  // namespace flashinfer::jit

// What a kernel's source is made of: the digest of every header of ours that it includes, directly or not. Host only.
// It is part of the cache key, so an edited header rebuilds the kernels that see it, and no others.
#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include <flashinfer/core/check.hpp>
#include <flashinfer/jit/sha256.hpp>

namespace flashinfer::jit {

/// The names in `#include <flashinfer/...>` lines, in quotes too. Conditions are not evaluated: too many headers cost nothing but a
/// rebuild, one too few would leave a stale kernel.
inline std::vector<std::string> our_includes(const std::string& text) {
  std::vector<std::string> names;
  static const std::string kFolder = "flashinfer/";
  for (size_t at = text.find("include"); at != std::string::npos; at = text.find("include", at + 1)) {
    const size_t open = text.find_first_not_of(" \t", at + 7);
    if (open == std::string::npos || (text[open] != '<' && text[open] != '"')) continue;
    if (text.compare(open + 1, kFolder.size(), kFolder) != 0) continue;
    const size_t close = text.find_first_of(">\"\n", open + 1);
    if (close != std::string::npos && text[close] != '\n') names.push_back(text.substr(open + 1, close - open - 1));
  }
  return names;
}

class HeaderDigest {
 public:
  explicit HeaderDigest(std::string include_dir) : include_dir_(std::move(include_dir)) {}

  /// Over the relative names and the contents of all headers that `source` reaches, in the order of their names: moving
  /// the installation changes nothing. A file is read once per process.
  std::string of(const std::string& source) {
    const std::lock_guard lock(mutex_);
    std::set<std::string> reached;
    std::vector<std::string> open = our_includes(source);
    while (!open.empty()) {
      const std::string name = std::move(open.back());
      open.pop_back();
      if (!reached.insert(name).second) continue;
      for (const std::string& next : header(name).includes) open.push_back(next);
    }
    Sha256 digest;
    for (const std::string& name : reached) digest.field(name).field(header(name).digest);
    return digest.hex();
  }

 private:
  struct Header {
    std::string digest;
    std::vector<std::string> includes;
  };

  const Header& header(const std::string& name) {
    if (const auto known = headers_.find(name); known != headers_.end()) return known->second;
    std::ifstream file(std::filesystem::path(include_dir_) / name, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    // A missing header is the compiler's to report, with the line that wanted it.
    return headers_[name] = {file ? sha256(text) : "absent", our_includes(text)};
  }

  std::string include_dir_;
  std::mutex mutex_;
  std::map<std::string, Header> headers_;
};

}  // namespace flashinfer::jit

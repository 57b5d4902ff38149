// A GPU architecture as a value: sm_90a is {90, 'a'}.
#pragma once

#include <string>

#include <flashinfer/core/check.hpp>
#include <flashinfer/core/std.hpp>

namespace flashinfer {

struct Arch {
  int16_t number = 0;  // major * 10 + minor
  char feature = 0;  // 'a' where instructions of exactly this architecture are used (wgmma, setmaxnreg); 'p': PTX of it, for any later GPU

  friend constexpr bool operator==(Arch, Arch) = default;
  constexpr bool has_bf16_mma() const { return number >= 80; }
  constexpr bool has_cp_async() const { return number >= 80; }
  constexpr bool has_tma() const { return number >= 90; }
  constexpr bool has_wgmma() const { return number == 90 && feature == 'a'; }
};

/// The target to compile for on a device of this compute capability: its own instructions where it has some.
constexpr Arch arch_of(int major, int minor) {
  const int number = major * 10 + minor;
  return {int16_t(number), number == 90 || number >= 100 ? 'a' : char(0)};
}

inline std::string to_string(Arch arch) {
  if (arch.feature == 'p') return "compute_" + std::to_string(arch.number);
  return "sm_" + std::to_string(arch.number) + (arch.feature ? std::string(1, arch.feature) : std::string());
}

/// "sm_90a", "90a", "9.0a" or "compute_80".
inline Arch parse_arch(const std::string& text) {
  if (text.rfind("compute_", 0) == 0) return {parse_arch(text.substr(8)).number, 'p'};
  std::string digits;
  char feature = 0;
  for (char c : text.rfind("sm_", 0) == 0 ? text.substr(3) : text) {
    if (c >= '0' && c <= '9' && !feature)
      digits += c;
    else if ((c == 'a' || c == 'f') && !feature)
      feature = c;
    else if (c != '.')
      digits.clear(), feature = '?';
  }
  if (digits.size() < 2 || digits.size() > 3 || feature == '?')
    throw InvalidArgument("parse_arch", "arch", "an architecture such as sm_80 or sm_90a", "'" + text + "'");
  return {int16_t(std::stoi(digits)), feature};
}

}  // namespace flashinfer

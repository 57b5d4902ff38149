// Host only. A config is a value with for_each_field; from that one function come its hash and its C++ text.
#pragma once

#include <string>
#include <type_traits>

#include <flashinfer/core/dtype.hpp>

namespace flashinfer {

/// splitmix64's finalizer over a running state: cheap, and every bit of a field reaches every bit of the key.
constexpr uint64_t mix(uint64_t state, uint64_t value) {
  uint64_t z = state + 0x9e3779b97f4a7c15ull + value;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

constexpr uint64_t hash_text(const char* text, uint64_t state = 0) {
  for (; *text; ++text) state = mix(state, uint8_t(*text));
  return state;
}

template <class Config>
constexpr uint64_t hash_fields(const Config& config) {
  uint64_t state = 0;
  config.for_each_field([&](const char*, const auto& field) { state = mix(state, uint64_t(int64_t(field))); });
  return state;
}

/// "RmsnormConfig{.input=DType::bf16, .hidden_size=4096}": what the JIT compiles and what errors show.
template <class Config>
std::string text_of(const Config& config) {
  std::string text = std::string(Config::kName) + "{";
  bool first = true;
  config.for_each_field([&](const char* name, const auto& field) {
    using Field = std::decay_t<decltype(field)>;
    text += (first ? "." : ", .") + std::string(name) + "=";
    first = false;
    if constexpr (std::is_same_v<Field, DType>) {
      text += std::string("DType::") + name_of(field);
    } else if constexpr (std::is_same_v<Field, bool>) {
      text += field ? "true" : "false";
    } else if constexpr (std::is_enum_v<Field>) {
      text += std::string(type_name(field)) + "(" + std::to_string(int64_t(field)) + ")";
    } else {
      static_assert(std::is_integral_v<Field>, "config fields are integers, bools, DTypes and enums with type_name()");
      text += std::to_string(field);
    }
  });
  return text + "}";
}

}  // namespace flashinfer

// Every family of ops is one file beside this, which adds its functions to the module by a Family at namespace scope:
//   const Family norm{[](nb::module_& m) { m.def("rmsnorm", &rmsnorm, "input"_a, "weight"_a, ...); }};
#pragma once

#include <functional>

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <bindings/call.hpp>

namespace flashinfer::bindings {

namespace nb = nanobind;
using namespace nb::literals;

class Family {
 public:
  explicit Family(void (*bind)(nb::module_&)) : bind_(bind), next_(first()) { first() = this; }
  Family(const Family&) = delete;

  static void bind_all(nb::module_& m) {
    for (const Family* family = first(); family; family = family->next_) family->bind_(m);
  }

 private:
  static const Family*& first() {
    static const Family* family = nullptr;
    return family;
  }
  void (*bind_)(nb::module_&);
  const Family* next_;
};

/// The kernels that `python -m flashinfer precompile` builds, by the name of their op:
///   const Tuned rmsnorm{"rmsnorm", [](Arch arch, const Tuned::Add& add) { for_each_tuned_rmsnorm(arch, [&](const auto& config) {
///   add(kernel_id(config)); }); }};
class Tuned {
 public:
  using Add = std::function<void(const KernelId&)>;
  Tuned(const char* op, void (*list)(Arch, const Add&)) : op(op), list(list), next(first()) { first() = this; }
  Tuned(const Tuned&) = delete;

  static const Tuned*& first() {
    static const Tuned* tuned = nullptr;
    return tuned;
  }
  const char* op;
  void (*list)(Arch, const Add&);
  const Tuned* next;
};

}  // namespace flashinfer::bindings

// Every family of ops is one file beside this, which adds its functions to the module by a Family at namespace scope:
//   const Family norm{[](nb::module_& m) { m.def("rmsnorm", &rmsnorm, "input"_a, "weight"_a, ...); }};
#pragma once

#include <vector>

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
///   const Tuned rmsnorm_kernels{"rmsnorm", [](Arch arch, const Tuned::Add& add) { gpu::for_each_tuned_rmsnorm(arch, add); }};
class Tuned {
 public:
  /// Takes configs, and the id of a kernel that is more than its config.
  class Add {
   public:
    explicit Add(std::vector<KernelText>& texts) : texts_(&texts) {}
    void operator()(const KernelId& id) const { texts_->push_back(id.text(id.config)); }
    template <class Config>
    void operator()(const Config& config) const {
      (*this)(kernel_id(config));
    }

   private:
    std::vector<KernelText>* texts_;
  };

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

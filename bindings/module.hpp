// Every family of ops is one file beside this, which adds its functions to the module by a Family at namespace scope:
//   const Family norm{[](nb::module_& m) { m.def("rmsnorm", &rmsnorm, "input"_a, "weight"_a, ...); }};
#pragma once

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

}  // namespace flashinfer::bindings

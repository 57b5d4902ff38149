// packbits and segment_packbits, bound under FlashInfer's names and argument orders.
#include <bindings/module.hpp>
#include <flashinfer/quantization/packbits.hpp>

#include <nanobind/stl/pair.h>

namespace flashinfer::bindings {
namespace {

BitOrder order_of(const char* op, const std::string& bitorder) {
  if (bitorder == "little") return BitOrder::little;
  if (bitorder != "big") throw InvalidArgument(op, "bitorder", "bitorder must be 'big' or 'little', got '" + bitorder + "'");
  return BitOrder::big;
}

Tensor packbits(const Tensor& x, const std::string& bitorder) {
  Call call("packbits");
  const BitOrder order = order_of("packbits", bitorder);
  const TensorView bits = call.in("x", x);
  Check("packbits").rank("x", bits, 1);
  const Output y = call.out("y", {}, DType::u8, {packed_size(bits.size(0))});
  call.run([&](const Context& context) { flashinfer::packbits(bits, y.view, order, context); });
  return y.result();
}

/// Bytes of all packed segments, which y has to be as long as. On a GPU this waits for indptr.
int64_t packed_size_of(const TensorView& indptr, const Context& context) {
  std::vector<int64_t> copy;
  const void* data = indptr.data;
  if (!indptr.is_cpu()) {
    copy.resize(size_t(indptr.size(0)));
    context.kernels->copy_to_host(copy.data(), indptr.data, size_t(indptr.size(0) * size_of(indptr.dtype)), context);
    data = copy.data();
  }
  const auto at = [&](int64_t i) {
    return indptr.dtype == DType::i32 ? static_cast<const int32_t*>(data)[i] : static_cast<const int64_t*>(data)[i];
  };
  int64_t size = 0;
  for (int64_t i = 0; i + 1 < indptr.size(0); ++i) size += packed_size(max(at(i + 1) - at(i), int64_t(0)));
  return size;
}

std::pair<Tensor, Tensor> segment_packbits(const Tensor& x, const Tensor& indptr, const std::string& bitorder) {
  Call call("segment_packbits");
  const Check check("segment_packbits");
  const BitOrder order = order_of(check.op, bitorder);
  const TensorView bits = call.in("x", x), segments = call.in("indptr", indptr);
  check.rank("indptr", segments, 1);
  check.dtype("indptr", segments, {DType::i32, DType::i64});
  check.contiguous("indptr", segments);
  const int64_t size = packed_size_of(segments, call.context());
  // More than the bits of x can fill means that indptr leaves x, which the op would find only after the memory is there.
  check.that(size <= packed_size(bits.numel()) + segments.size(0), "indptr", "entries that rise to at most len(x)", "others");
  const Output y = call.out("y", {}, DType::u8, {size}), packed_indptr = call.out("new_indptr", {}, DType::i32, {segments.size(0)});
  call.run([&](const Context& context) { flashinfer::segment_packbits(bits, segments, y.view, packed_indptr.view, order, context); });
  return {y.result(), packed_indptr.result()};
}

const Family family{[](nb::module_& m) {
  m.def("packbits", &packbits, "x"_a, "bitorder"_a = "big",
        R"(Eight booleans a byte, as numpy.packbits: the first goes into the highest bit, or the lowest if bitorder is "little".

x: [n], bool, or uint8 of which any value but 0 is true. Returns uint8, [(n + 7) / 8].)");
  m.def("segment_packbits", &segment_packbits, "x"_a, "indptr"_a, "bitorder"_a = "big",
        R"((y, new_indptr): segments x[indptr[i]:indptr[i + 1]], each packed by itself into y[new_indptr[i]:new_indptr[i + 1]].

indptr: [num_segments + 1], int32 or int64. new_indptr is int32. On a GPU this waits for indptr, for the length of y depends on it.)");
}};

const Tuned packbits_kernels{"packbits", [](Arch arch, const Tuned::Add& add) { gpu::for_each_tuned_packbits(arch, add); }};

}  // namespace
}  // namespace flashinfer::bindings

// The handlers that JAX registers with XLA: see xla_ffi.hpp.
#include <bindings/xla_ffi.hpp>

#include <cstring>
#include <new>
#include <string>

#include <bindings/module.hpp>
#include <flashinfer/core/check.hpp>
#include <flashinfer/core/math.hpp>

namespace flashinfer::bindings {
namespace {

bool to_dtype(xla::DataType type, DType& dtype) {
  switch (type) {
    case xla::kPred: dtype = DType::boolean; return true;
    case xla::kS8: dtype = DType::i8; return true;
    case xla::kU8:
    case xla::kF8E8M0FNU: dtype = DType::u8; return true;
    case xla::kS32:
    case xla::kU32: dtype = DType::i32; return true;
    case xla::kS64:
    case xla::kU64: dtype = DType::i64; return true;
    case xla::kF16: dtype = DType::f16; return true;
    case xla::kBf16: dtype = DType::bf16; return true;
    case xla::kF32: dtype = DType::f32; return true;
    case xla::kF64: dtype = DType::f64; return true;
    case xla::kF8E4M3FN: dtype = DType::e4m3; return true;
    case xla::kF8E5M2: dtype = DType::e5m2; return true;
  }
  return false;
}

constexpr size_t kXlaAlignment = 16;  // the most that may be asked for; what comes has 256

/// An error that XLA itself gave, to be handed back.
struct XlaError {
  xla::Error* error;
};
void check(xla::Error* error) {
  if (error) throw XlaError{error};
}

/// XLA refuses a handler of another version than its own; jaxlib's header tells it (flashinfer/jax.py).
int version_major = 0, version_minor = 0;

xla::Error* error_of(const xla::CallFrame& frame, xla::ErrorCode code, const char* message) {
  xla::ErrorCreateArgs args{sizeof(args), nullptr, message, code};
  return frame.api->error_create(&args);
}

/// XLA records the launches of ops without scratch into its CUDA graphs; scratch would be freed before the replay.
template <DeviceType kDevice, bool kScratch>
xla::Error* handle(xla::CallFrame* frame) {
  if (frame->extensions && frame->extensions->type == xla::kMetadata) {  // XLA asks what this handler is
    xla::Metadata& metadata = *reinterpret_cast<xla::MetadataExtension*>(frame->extensions)->metadata;
    metadata.version.major = version_major, metadata.version.minor = version_minor;
    metadata.traits = kScratch ? 0 : xla::kCommandBufferCompatible;
    return nullptr;
  }
  if (frame->stage != xla::kExecute) return nullptr;
  try {
    XlaCall call(*frame, kDevice);
    for (const XlaOp* op = XlaOp::first(); op; op = op->next)
      if (std::strcmp(op->name, call.op()) == 0) return op->run(call), nullptr;
    throw InvalidArgument("jax", "op", "an op that jit knows", call.op());
  } catch (const XlaError& e) {
    return e.error;
  } catch (const InvalidArgument& e) {
    return error_of(*frame, xla::kInvalidArgument, e.what());
  } catch (const Unsupported& e) {
    return error_of(*frame, xla::kUnimplemented, e.what());
  } catch (const std::exception& e) {
    return error_of(*frame, xla::kInternal, e.what());
  }
}

template <DeviceType kDevice, bool kScratch>
nb::capsule capsule() {
  return nb::capsule(reinterpret_cast<void*>(&handle<kDevice, kScratch>));
}

nb::list handlers(int major, int minor) {
  version_major = major, version_minor = minor;
  nb::list list;
  list.append(nb::make_tuple("flashinfer", "cpu", capsule<DeviceType::cpu, false>()));
  list.append(nb::make_tuple("flashinfer_scratch", "cpu", capsule<DeviceType::cpu, true>()));
  list.append(nb::make_tuple("flashinfer", "CUDA", capsule<DeviceType::cuda, false>()));
  list.append(nb::make_tuple("flashinfer_scratch", "CUDA", capsule<DeviceType::cuda, true>()));
  return list;
}

const Family family{[](nb::module_& m) {
  m.def("_xla_handlers", &handlers, "major"_a, "minor"_a,
        "(target, platform, handler) for jax.ffi.register_ffi_target, under the version of XLA's interface.");
}};

}  // namespace

XlaCall::XlaCall(const xla::CallFrame& frame, DeviceType device) : frame_(frame) {
  const void* name = find("op", xla::kString);
  if (!name) throw InvalidArgument("jax", "op", "the name of an op", "nothing");
  const auto& span = *static_cast<const xla::ByteSpan*>(name);
  op_.assign(span.data, span.size);
  context_.device = {device, 0};
  if (device == DeviceType::cpu) return;
  xla::DeviceOrdinalArgs ordinal{sizeof(ordinal), nullptr, frame.context, 0};
  check(frame.api->device_ordinal(&ordinal));
  xla::StreamGetArgs stream{sizeof(stream), nullptr, frame.context, nullptr};
  check(frame.api->stream_get(&stream));
  context_.device.index = ordinal.ordinal;
  context_.stream = stream.stream;
  context_.kernels = &jit_kernels();
  context_.pdl = context_.kernels->device_info(ordinal.ordinal).arch.number >= 90;
}

XlaCall::~XlaCall() {
  for (const TensorView& memory : scratch_) {
    if (memory.is_cpu()) {
      ::operator delete(memory.data, std::align_val_t(64));
    } else {  // in the order of the stream
      xla::MemoryFreeArgs args{sizeof(args), nullptr, frame_.context, size_t(memory.shape[0]), memory.data};
      if (xla::Error* error = frame_.api->memory_free(&args)) {
        xla::ErrorDestroyArgs destroy{sizeof(destroy), nullptr, error};
        frame_.api->error_destroy(&destroy);
      }
    }
  }
}

TensorView XlaCall::view_of(const xla::Buffers& buffers, int i) const {
  if (i >= buffers.size) throw InvalidArgument(op(), "inputs", "buffer " + std::to_string(i), std::to_string(buffers.size) + " of them");
  const auto& buffer = *static_cast<const xla::Buffer*>(buffers.values[i]);
  const std::string name = "buffer " + std::to_string(i);
  TensorView view;
  if (!to_dtype(buffer.dtype, view.dtype))
    Check(op()).fail(name.c_str(), "a dtype of the library", "XLA type " + std::to_string(buffer.dtype));
  if (buffer.rank > kMaxDims) Check(op()).fail(name.c_str(), "at most 8 dimensions", std::to_string(buffer.rank));
  view.data = buffer.data;
  view.device = context_.device;
  view.ndim = int(buffer.rank);
  int64_t packed = 1;
  for (int d = view.ndim - 1; d >= 0; --d) view.shape[d] = buffer.dims[d], view.strides[d] = packed, packed *= buffer.dims[d];
  return view;
}

TensorView XlaCall::in_place(int output, int input) const {
  const TensorView view = out(output);
  if (view.data != in(input).data && view.numel() > 0)
    throw Unsupported(op_ + ": XLA gave an output memory of its own that was to be that of an input");
  return view;
}

const void* XlaCall::find(const char* name, xla::AttrType type) const {
  const xla::Attrs& attrs = frame_.attributes;
  for (int64_t i = 0; i < attrs.size; ++i)
    if (attrs.types[i] == type && attrs.names[i]->size == std::strlen(name) &&
        std::memcmp(attrs.names[i]->data, name, attrs.names[i]->size) == 0)
      return attrs.values[i];
  return nullptr;
}

double XlaCall::number(const char* name) const {
  const auto* scalar = static_cast<const xla::Scalar*>(find(name, xla::kScalar));
  if (!scalar) throw InvalidArgument(op(), name, "a number", "nothing");
  switch (scalar->dtype) {
    case xla::kPred: return *static_cast<const bool*>(scalar->value);
    case xla::kS32: return *static_cast<const int32_t*>(scalar->value);
    case xla::kS64: return double(*static_cast<const int64_t*>(scalar->value));
    case xla::kF32: return *static_cast<const float*>(scalar->value);
    case xla::kF64: return *static_cast<const double*>(scalar->value);
    default: throw InvalidArgument(op(), name, "a number", "XLA type " + std::to_string(scalar->dtype));
  }
}

TensorView XlaCall::nhd(TensorView t, int token) const {
  if (flag("hnd")) std::swap(t.shape[token], t.shape[token + 1]), std::swap(t.strides[token], t.strides[token + 1]);
  return t;
}

TensorView XlaCall::pages(const TensorView& t) const {
  Check(op()).rank("paged_kv_cache", t, 4);
  return nhd(t, 1);
}

TensorView XlaCall::scratch(int64_t bytes) {
  TensorView memory(nullptr, DType::u8, {max(bytes, int64_t(1))}, context_.device);
  if (memory.is_cpu()) {
    memory.data = ::operator new(size_t(memory.shape[0]), std::align_val_t(64));
  } else {
    xla::MemoryArgs args{sizeof(args), nullptr, frame_.context, size_t(memory.shape[0]), kXlaAlignment, nullptr};
    check(frame_.api->memory_allocate(&args));
    memory.data = args.data;
  }
  scratch_.push_back(memory);
  return memory;
}

}  // namespace flashinfer::bindings

// JAX under jit: XLA calls an op as a custom call, through its C interface for foreign functions. Own declarations of the part that is
// used, so that no header of XLA is needed; python_tests/test_jax.py compares them with jaxlib's. One handler serves all ops: the attribute
// `op` names one, other attributes are its numbers. What an op is for XLA stands beside its binding, what it is for Python in
// flashinfer/jax.py.
#pragma once

#include <memory>
#include <vector>

#include <flashinfer/core/tensor.hpp>
#include <flashinfer/runtime/kernel_source.hpp>

namespace flashinfer::xla {

enum ExtensionType : int { kMetadata = 1 };
enum ErrorCode : int { kInvalidArgument = 3, kUnimplemented = 12, kInternal = 13 };
enum DataType : int {
  kPred = 1,
  kS8 = 2,
  kS32 = 4,
  kS64 = 5,
  kU8 = 6,
  kU32 = 8,
  kU64 = 9,
  kF16 = 10,
  kF32 = 11,
  kF64 = 12,
  kBf16 = 16,
  kF8E5M2 = 19,
  kF8E4M3FN = 20,
  kF8E8M0FNU = 33,
};
enum AttrType : int { kScalar = 3, kString = 4 };
enum Stage : int { kExecute = 3 };
enum HandlerTraits : uint32_t { kCommandBufferCompatible = 1 };

struct Extension {
  size_t struct_size;
  ExtensionType type;
  Extension* next;
};
struct Version {
  size_t struct_size;
  Extension* extensions;
  int major, minor;
};
struct Metadata {
  size_t struct_size;
  Version version;
  uint32_t traits;
};
struct MetadataExtension {
  Extension base;
  Metadata* metadata;
};

struct Buffer {
  size_t struct_size;
  Extension* extensions;
  DataType dtype;
  void* data;
  int64_t rank;
  int64_t* dims;
};
struct ByteSpan {
  const char* data;
  size_t size;
};
struct Scalar {
  DataType dtype;
  void* value;
};
struct Buffers {  // arguments, or results
  size_t struct_size;
  Extension* extensions;
  int64_t size;
  int* types;
  void** values;
};
struct Attrs {
  size_t struct_size;
  Extension* extensions;
  int64_t size;
  AttrType* types;
  ByteSpan** names;
  void** values;
};

struct Error;
struct ExecutionContext;
struct ErrorCreateArgs {
  size_t struct_size;
  Extension* extensions;
  const char* message;
  ErrorCode code;
};
struct ErrorDestroyArgs {
  size_t struct_size;
  Extension* extensions;
  Error* error;
};
struct StreamGetArgs {
  size_t struct_size;
  Extension* extensions;
  ExecutionContext* context;
  void* stream;
};
struct MemoryArgs {  // to allocate
  size_t struct_size;
  Extension* extensions;
  ExecutionContext* context;
  size_t size, alignment;
  void* data;
};
struct MemoryFreeArgs {
  size_t struct_size;
  Extension* extensions;
  ExecutionContext* context;
  size_t size;
  void* data;
};
struct DeviceOrdinalArgs {
  size_t struct_size;
  Extension* extensions;
  ExecutionContext* context;
  int32_t ordinal;
};
/// XLA's functions, in its order; those that are not used are only counted.
struct Api {
  size_t struct_size;
  Extension* extensions;
  Version version;
  const void* internal;
  Error* (*error_create)(ErrorCreateArgs*);
  void* error_text;
  void (*error_destroy)(ErrorDestroyArgs*);
  void* handler_register;
  Error* (*stream_get)(StreamGetArgs*);
  void* type_register_to_state_get[4];
  Error* (*memory_allocate)(MemoryArgs*);
  Error* (*memory_free)(MemoryFreeArgs*);
  void* thread_pool_to_run_id[6];
  Error* (*device_ordinal)(DeviceOrdinalArgs*);
};
struct CallFrame {
  size_t struct_size;
  Extension* extensions;
  const Api* api;
  ExecutionContext* context;
  Stage stage;
  Buffers arguments, results;
  Attrs attributes;
};

}  // namespace flashinfer::xla

namespace flashinfer::bindings {

/// One call from XLA, on its stream: what Call is for Python.
class XlaCall {
 public:
  XlaCall(const xla::CallFrame& frame, DeviceType device);
  ~XlaCall();
  XlaCall(const XlaCall&) = delete;

  const char* op() const { return op_.c_str(); }
  const Context& context() const { return context_; }
  int num_inputs() const { return int(frame_.arguments.size); }
  int num_outputs() const { return int(frame_.results.size); }
  TensorView in(int i) const { return view_of(frame_.arguments, i); }
  TensorView out(int i) const { return view_of(frame_.results, i); }
  /// An output that shares the memory of input `i`, so that the op works in place: other inputs are read-only.
  TensorView in_place(int output, int input) const;
  /// With dimensions `token` and `token` + 1 in the other order if the caller's layout is HND.
  TensorView nhd(TensorView t, int token) const;
  /// A cache as [num_pages, page_size, num_kv_heads, head_dim].
  TensorView pages(const TensorView& t) const;
  /// An attribute; an error if there is none.
  double number(const char* name) const;
  bool flag(const char* name) const { return number(name) != 0; }
  /// Memory until the call's kernels are done: only for ops that say so (XlaOp::kScratch).
  TensorView scratch(int64_t bytes);

 private:
  TensorView view_of(const xla::Buffers& buffers, int i) const;
  const void* find(const char* name, xla::AttrType type) const;

  const xla::CallFrame& frame_;
  std::string op_;
  Context context_;
  std::vector<TensorView> scratch_;
};

/// An op under jit:
///   const XlaOp rmsnorm{"rmsnorm", [](XlaCall& c) { flashinfer::rmsnorm(c.in(0), c.in(1), c.out(0), float(c.number("eps")), c.context());
///   }};
class XlaOp {
 public:
  XlaOp(const char* name, void (*run)(XlaCall&)) : name(name), run(run), next(first()) { first() = this; }
  XlaOp(const XlaOp&) = delete;

  static const XlaOp*& first() {
    static const XlaOp* op = nullptr;
    return op;
  }
  const char* name;
  void (*run)(XlaCall&);
  const XlaOp* next;
};

}  // namespace flashinfer::bindings

// Runs a rewritten model from plain C: libort_lowbit.so loaded through ONNX Runtime's C API, no Node, no C++.
//
//   run_model LIBONNXRUNTIME LIBORT_LOWBIT MODEL [INPUT=D0,D1,... ...]
//
// Every input is filled by one rule (see Fill), so that another host can feed the same and compare. Dimensions that the
// model leaves open are 1 unless given. Prints a line per output: name, dims, FNV-1a hash of its bytes.
// Exit codes: 0 done, 2 usage, 3 anything that does not load or run.
#include <dlfcn.h>
#include <inttypes.h>
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kMaxValues = 256, kMaxRank = 8, kApiVersion = 17 };

static const OrtApi* api;

static void Check(OrtStatus* status, const char* what) {
  if (!status) return;
  fprintf(stderr, "run_model: %s failed: %s\n", what, api->GetErrorMessage(status));
  exit(3);
}

static void Fail(const char* what, const char* detail) {
  fprintf(stderr, "run_model: %s: %s\n", what, detail ? detail : "unknown");
  exit(3);
}

// Element i: float32 (i * 37 mod 64 - 32) / 16, int64 i mod 5, every other type zero bytes.
static void Fill(ONNXTensorElementDataType type, void* data, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) ((float*)data)[i] = ((float)(i * 37 % 64) - 32.0f) / 16.0f;
    if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64) ((int64_t*)data)[i] = (int64_t)(i % 5);
  }
}

static size_t ElementBytes(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL:
      return 1;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
      return 2;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
      return 4;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE:
      return 8;
    default:
      Fail("element type", "not one of those this program feeds");
      return 0;
  }
}

// The dims given on the command line as NAME=D0,D1,...; null when this input has none.
static const char* GivenDims(int argc, char** argv, const char* name) {
  const size_t length = strlen(name);
  for (int i = 4; i < argc; ++i) {
    if (strncmp(argv[i], name, length) == 0 && argv[i][length] == '=') return argv[i] + length + 1;
  }
  return NULL;
}

static OrtValue* MakeInput(const OrtSession* session, size_t index, const char* given, const OrtMemoryInfo* memory) {
  OrtTypeInfo* info = NULL;
  const OrtTensorTypeAndShapeInfo* tensor = NULL;
  ONNXTensorElementDataType type;
  size_t rank = 0, count = 1;
  int64_t dims[kMaxRank];
  Check(api->SessionGetInputTypeInfo(session, index, &info), "SessionGetInputTypeInfo");
  Check(api->CastTypeInfoToTensorInfo(info, &tensor), "CastTypeInfoToTensorInfo");
  if (!tensor) Fail("input", "is no tensor");
  Check(api->GetTensorElementType(tensor, &type), "GetTensorElementType");
  Check(api->GetDimensionsCount(tensor, &rank), "GetDimensionsCount");
  if (rank > kMaxRank) Fail("input", "has too many dimensions");
  Check(api->GetDimensions(tensor, dims, rank), "GetDimensions");
  api->ReleaseTypeInfo(info);
  for (size_t i = 0; i < rank; ++i) {
    if (given) {
      char* end = NULL;
      dims[i] = strtoll(given, &end, 10);
      given = *end == ',' ? end + 1 : end;
    } else if (dims[i] < 0) {
      dims[i] = 1;
    }
    count *= (size_t)dims[i];
  }
  const size_t bytes = count * ElementBytes(type);
  void* data = calloc(bytes + 1, 1);  // lives as long as the program
  if (!data) Fail("input", "does not fit into memory");
  Fill(type, data, count);
  OrtValue* value = NULL;
  Check(api->CreateTensorWithDataAsOrtValue(memory, data, bytes, dims, rank, type, &value), "CreateTensor");
  return value;
}

static void PrintOutput(const char* name, OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = NULL;
  ONNXTensorElementDataType type;
  size_t rank = 0, count = 0;
  int64_t dims[kMaxRank];
  void* data = NULL;
  Check(api->GetTensorTypeAndShape(value, &info), "GetTensorTypeAndShape");
  Check(api->GetTensorElementType(info, &type), "GetTensorElementType");
  Check(api->GetDimensionsCount(info, &rank), "GetDimensionsCount");
  if (rank > kMaxRank) Fail(name, "has too many dimensions");
  Check(api->GetDimensions(info, dims, rank), "GetDimensions");
  Check(api->GetTensorShapeElementCount(info, &count), "GetTensorShapeElementCount");
  Check(api->GetTensorMutableData(value, &data), "GetTensorMutableData");
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t i = 0; i < count * ElementBytes(type); ++i) hash = (hash ^ ((unsigned char*)data)[i]) * 0x100000001b3u;
  printf("%s ", name);
  for (size_t i = 0; i < rank; ++i) printf("%s%" PRId64, i ? "," : "", dims[i]);
  printf(" %016" PRIx64 "\n", hash);
  api->ReleaseTensorTypeAndShapeInfo(info);
}

int main(int argc, char** argv) {
  if (argc < 4) {
    fprintf(stderr, "usage: run_model LIBONNXRUNTIME LIBORT_LOWBIT MODEL [INPUT=D0,D1,... ...]\n");
    return 2;
  }
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) Fail(argv[1], dlerror());
  const OrtApiBase* (*get_base)(void) = NULL;
  *(void**)&get_base = dlsym(library, "OrtGetApiBase");
  if (!get_base) Fail(argv[1], "has no OrtGetApiBase");
  api = get_base()->GetApi(kApiVersion);
  if (!api) Fail(argv[1], "is too old");

  OrtEnv* env = NULL;
  OrtSessionOptions* options = NULL;
  OrtSession* session = NULL;
  OrtMemoryInfo* memory = NULL;
  OrtAllocator* allocator = NULL;
  Check(api->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "run_model", &env), "CreateEnv");
  Check(api->CreateSessionOptions(&options), "CreateSessionOptions");
  Check(api->RegisterCustomOpsLibrary_V2(options, argv[2]), "RegisterCustomOpsLibrary_V2");
  Check(api->CreateSession(env, argv[3], options, &session), "CreateSession");
  Check(api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory), "CreateCpuMemoryInfo");
  Check(api->GetAllocatorWithDefaultOptions(&allocator), "GetAllocatorWithDefaultOptions");

  size_t inputs = 0, outputs = 0;
  char *input_names[kMaxValues], *output_names[kMaxValues];
  OrtValue *input_values[kMaxValues], *output_values[kMaxValues] = {NULL};
  Check(api->SessionGetInputCount(session, &inputs), "SessionGetInputCount");
  Check(api->SessionGetOutputCount(session, &outputs), "SessionGetOutputCount");
  if (inputs > kMaxValues || outputs > kMaxValues) Fail(argv[3], "has too many inputs or outputs");
  for (size_t i = 0; i < inputs; ++i) {
    Check(api->SessionGetInputName(session, i, allocator, &input_names[i]), "SessionGetInputName");
    input_values[i] = MakeInput(session, i, GivenDims(argc, argv, input_names[i]), memory);
  }
  for (size_t i = 0; i < outputs; ++i) {
    Check(api->SessionGetOutputName(session, i, allocator, &output_names[i]), "SessionGetOutputName");
  }
  Check(api->Run(session, NULL, (const char* const*)input_names, (const OrtValue* const*)input_values, inputs,
                 (const char* const*)output_names, outputs, output_values),
        "Run");
  for (size_t i = 0; i < outputs; ++i) {
    PrintOutput(output_names[i], output_values[i]);
    api->ReleaseValue(output_values[i]);
  }
  for (size_t i = 0; i < inputs; ++i) api->ReleaseValue(input_values[i]);
  api->ReleaseMemoryInfo(memory);
  api->ReleaseSession(session);
  api->ReleaseSessionOptions(options);
  api->ReleaseEnv(env);
  return 0;
}

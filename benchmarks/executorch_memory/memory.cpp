// Load methods of an ExecuTorch program one after another; say after each what the process holds.
//
//   memory PROGRAM PARTS CACHE LENGTH ITEMS CALLS METHOD...
//
// PARTS: .ptd files with commas between, or "-". CACHE: 1 shares packed weights among methods. Writes a JSON
// object a line: first the program alone, then each method after its loading and CALLS calls.

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/backend/options.h>

#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

// The wheel ships no header of its thread pool.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  void _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

using executorch::extension::from_blob;
using executorch::extension::Module;
using executorch::runtime::BackendOptions;
using executorch::runtime::Error;
using executorch::runtime::EValue;

static long status_kb(const std::string& name) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.rfind(name + ":", 0) == 0) return std::atol(line.c_str() + name.size() + 1);
  return -1;
}

static double cpu_ms() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static int fail(const std::string& what, Error error) {
  std::fprintf(stderr, "%s: error 0x%02x\n", what.c_str(), static_cast<unsigned>(error));
  return 1;
}

static void report(const std::string& name, double load_ms, double call_ms) {
  std::printf("{\"entry\": \"%s\", \"load_cpu_ms\": %.3f, \"call_cpu_ms\": %.4f, \"rss_kb\": %ld, \"anon_kb\": %ld}\n",
              name.c_str(), load_ms, call_ms, status_kb("VmRSS"), status_kb("RssAnon"));
}

int main(int argc, char** argv) {
  if (argc < 7) return std::fprintf(stderr, "memory PROGRAM PARTS CACHE LENGTH ITEMS CALLS METHOD...\n"), 2;
  std::vector<std::string> parts;
  std::stringstream list(argv[2]);
  for (std::string part; std::getline(list, part, ',');)
    if (part != "-") parts.push_back(part);
  const int length = std::atoi(argv[4]), items = std::atoi(argv[5]), calls = std::atoi(argv[6]);
  if (std::atoi(argv[3])) {
    BackendOptions<1> options;
    Error error = options.set_option("weight_cache_enabled", true);
    if (error == Error::Ok) error = executorch::runtime::set_option("XnnpackBackend", options.view());
    if (error != Error::Ok) return fail("weight_cache_enabled", error);
  }
  executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(1);

  double start = cpu_ms();
  Module module(argv[1], parts, Module::LoadMode::Mmap);
  Error error = module.load();
  if (error != Error::Ok) return fail(argv[1], error);
  report("program", cpu_ms() - start, 0);

  int32_t point = 1;  // balanced
  std::vector<int32_t> history(length, 0);
  for (int n = length / 2; n < length; ++n) history[n] = 1 + (n * 37) % items;
  for (int n = 7; n < argc; ++n) {
    start = cpu_ms();
    error = module.load_method(argv[n]);
    if (error != Error::Ok) return fail(argv[n], error);
    const double loaded = cpu_ms() - start;
    auto seq = from_blob(history.data(), {1, length}, executorch::aten::ScalarType::Int);
    auto at = from_blob(&point, {1}, executorch::aten::ScalarType::Int);
    std::vector<EValue> inputs{seq};
    if (std::string(argv[n]) == "router") inputs.push_back(at);
    std::vector<double> taken;
    for (int call = 0; call < calls; ++call) {
      start = cpu_ms();
      auto outputs = module.execute(argv[n], inputs);
      taken.push_back(cpu_ms() - start);
      if (!outputs.ok()) return fail(argv[n], outputs.error());
    }
    std::sort(taken.begin(), taken.end());
    report(argv[n], loaded, taken[taken.size() / 2]);
  }
  return 0;
}

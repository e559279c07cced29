// Runs a script from standard input against the C++ library, for tests/runtimes/test_cpp.py: a command a line, an
// answer a line.
//
//     open FOLDER [DEVICE [RUNTIME [cuda: outputs stay on the GPU]]]
//     set NAME DTYPE FILE SIZES...   mask FILE HEIGHT WIDTH          nomask
//     place cuda|host (where inputs and masks go that are set from then on)
//     record FOLDER                  edit FOLDER (outputs go there as raw files)
//     commit                         repeat COUNT (edits; answers with the growth of memory in bytes)
//     save FILE                      load FILE                      touch FILE (its time changes)
#include <unistd.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <thread>

#include "sige/session.h"
#ifdef SIGE_DRIVER_CUDA
#include "gpu.h"
#endif

constexpr const char* KINDS[] = {"BundleError", "InputError", "StateError", "RuntimeFailure", "CacheError"};

static std::vector<char> contents(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

static int64_t resident() {
  std::ifstream file("/proc/self/statm");
  int64_t pages = 0, in_memory = 0;
  file >> pages >> in_memory;
  return in_memory * sysconf(_SC_PAGESIZE);
}

struct Script {
  std::unique_ptr<sige::Session> session;
  std::map<std::string, std::vector<char>> bytes;
  sige::Inputs inputs;
  std::vector<char> mask_bytes;
  std::optional<sige::Mask> mask;
  sige::Options options;
  sige::Place place = sige::Place::HOST;
  std::map<std::string, std::shared_ptr<void>> moved;  // inputs and mask on the GPU

  // Where the library is to read an array.
  const void* placed(const std::string& name, const std::vector<char>& bytes) {
#ifdef SIGE_DRIVER_CUDA
    if (place == sige::Place::CUDA)
      return (moved[name] = on_gpu(bytes, static_cast<cudaStream_t>(options.stream))).get();
#endif
    moved.erase(name);
    return bytes.data();
  }

  std::vector<char> bytes_of(const sige::Array& array) const {
    size_t bytes = sige::size_of(array.dtype);
    for (int64_t size : array.shape) bytes *= static_cast<size_t>(size);
#ifdef SIGE_DRIVER_CUDA
    if (array.cuda) return from_gpu(array.cuda.get(), bytes, static_cast<cudaStream_t>(options.stream));
#endif
    return {array.data<char>(), array.data<char>() + bytes};
  }

  std::string write(const sige::Outputs& outputs, const std::string& folder) const {
    for (const auto& [name, array] : outputs) {
      const std::vector<char> bytes = bytes_of(array);
      std::ofstream(folder + "/" + name, std::ios::binary).write(bytes.data(), static_cast<int64_t>(bytes.size()));
    }
    const sige::Report report = session->report();
    std::ostringstream answer;
    answer.precision(17);
    answer << report.path << " " << report.active_fraction << " " << report.cache_bytes;
    for (const auto& [level, rows] : report.rows) answer << " " << level << "=" << rows;
    return answer.str() + " | " + report.runtime;
  }

  // Half of the edits before the first look: by then every pool has the size that it needs.
  std::string repeat(int count) {
    for (int i = 0; i < count / 2; ++i) session->edit(inputs, mask);
    const int64_t before = resident();
    for (int i = count / 2; i < count; ++i) session->edit(inputs, mask);
    return std::to_string(resident() - before);
  }

  // Edits from several threads at once, which must give what one gives.
  std::string threads(int count) {
    const sige::Outputs expected = session->edit(inputs, mask);
    std::vector<int> same(count);
    std::vector<std::thread> running;
    for (int i = 0; i < count; ++i)
      running.emplace_back([&, i] {
        same[i] = 1;
        for (const auto& [name, array] : session->edit(inputs, mask))
          same[i] &= bytes_of(array) == bytes_of(expected.at(name));
      });
    for (std::thread& thread : running) thread.join();
    int total = 0;
    for (int one : same) total += one;
    return std::to_string(total);
  }

  std::string run(const std::string& line) {
    std::istringstream words(line);
    std::string command, argument;
    words >> command >> argument;
    if (command == "open") {
      std::string outputs;
      options = sige::Options();
      options.threads = 1;
      words >> options.device >> options.runtime >> outputs;  // as they are where the line names none
      if (outputs == "cuda") options.outputs = sige::Place::CUDA;
#ifdef SIGE_DRIVER_CUDA
      if (options.device.rfind("cuda", 0) == 0) options.stream = stream_of(options.device);
#endif
      session = std::make_unique<sige::Session>(sige::Session::open(argument, options));
    } else if (command == "set") {
      std::string dtype, file;
      words >> dtype >> file;
      const sige::Shape shape{std::istream_iterator<int64_t>(words), {}};
      sige::DType type = sige::DType::FLOAT32;
      for (int i = 0; i <= static_cast<int>(sige::DType::UINT64); ++i)
        if (dtype == sige::name_of(static_cast<sige::DType>(i))) type = static_cast<sige::DType>(i);
      bytes[argument] = contents(file);
      inputs.insert_or_assign(argument, sige::View(type, shape, placed(argument, bytes[argument]), place));
    } else if (command == "unset") {
      inputs.erase(argument);
    } else if (command == "mask") {
      mask_bytes = contents(argument);
      mask = sige::Mask{static_cast<const uint8_t*>(placed("mask", mask_bytes)), 0, 0, place};
      words >> mask->height >> mask->width;
    } else if (command == "place") {
      place = argument == "cuda" ? sige::Place::CUDA : sige::Place::HOST;
    } else if (command == "nomask") {
      mask.reset();
    } else if (command == "record") {
      return write(session->record(inputs), argument);
    } else if (command == "edit") {
      return write(session->edit(inputs, mask), argument);
    } else if (command == "commit") {
      session->commit();
    } else if (command == "save") {
      session->save(argument);
    } else if (command == "load") {
      session->load(argument);
    } else if (command == "touch") {
      std::filesystem::last_write_time(argument, std::filesystem::file_time_type());
    } else if (command == "report") {
      const sige::Report report = session->report();
      return report.path + (report.captured ? " captured " : " direct ") + std::to_string(report.graphs);
    } else if (command == "repeat") {
      return repeat(std::stoi(argument));
    } else if (command == "threads") {
      return threads(std::stoi(argument));
    } else {
      return "unknown command";
    }
    return "done";
  }
};

int main() {
  Script script;
  for (std::string line; std::getline(std::cin, line);) {
    try {
      const std::string answer = script.run(line);
      std::cout << "ok " << answer << std::endl;
    } catch (const sige::Error& error) {
      std::cout << KINDS[static_cast<int>(error.kind())] << " " << error.what() << std::endl;
    }
  }
}

// Records inputs, then edits them, with any bundle.
//
//     edit <bundle> <outputs> [<inputs> <edited inputs>]
//
// The last two are folders with a file <input>.npy for each of the network's inputs; without them, inputs are made up.
// The outputs go to <outputs>/record and <outputs>/edit as .npy files, the recorded state to <outputs>/state.safetensors.
#include <cmath>
#include <filesystem>
#include <iostream>

#include "npy.h"
#include "sige/session.h"

namespace fs = std::filesystem;

using Arrays = std::map<std::string, sige::Array>;

// Waves where an input has floats, and zeros elsewhere; edited: with a square of 8 x 8 in the middle that is brighter.
static Arrays made_up(const std::vector<sige::Signature>& inputs, bool edited) {
  Arrays arrays;
  for (const sige::Signature& input : inputs) {
    sige::Array& array = arrays[input.name] = zeros(input);
    if (input.dtype != sige::DType::FLOAT32) continue;
    auto* values = reinterpret_cast<float*>(array.bytes.data());
    const size_t axes = input.shape.size(), count = array.bytes.size() / sizeof(float);
    const int64_t height = axes > 1 ? input.shape[axes - 2] : 1, width = axes > 0 ? input.shape[axes - 1] : 1;
    for (size_t i = 0; i < count; ++i) {
      const auto x = static_cast<int64_t>(i) % width, y = static_cast<int64_t>(i) / width % height;
      values[i] = std::cos(0.1f * static_cast<float>(i % 1000));
      if (edited && input.role == "spatial" && std::abs(2 * x - width) < 8 && std::abs(2 * y - height) < 8)
        values[i] += 0.5f;
    }
  }
  return arrays;
}

static Arrays read(const std::vector<sige::Signature>& inputs, const fs::path& folder) {
  Arrays arrays;
  for (const sige::Signature& input : inputs)
    arrays.emplace(input.name, read_npy(folder / (input.name + ".npy"), input));
  return arrays;
}

static void write(const sige::Outputs& outputs, const fs::path& folder) {
  fs::create_directories(folder);
  for (const auto& [name, array] : outputs) write_npy(folder / (name + ".npy"), array);
}

static void say(const sige::Report& report) {
  std::cout << report.path << ": " << 100 * report.active_fraction << " % of the work, " << report.milliseconds
            << " ms (" << report.runtime << ")\n";
}

int main(int count, char** arguments) {
  if (count != 3 && count != 5) {
    std::cerr << "edit <bundle> <outputs> [<inputs> <edited inputs>]\n";
    return 2;
  }
  try {
    sige::Session session = sige::Session::open(arguments[1]);
    const fs::path out = arguments[2];
    const Arrays before = count == 5 ? read(session.inputs(), arguments[3]) : made_up(session.inputs(), false);
    const Arrays after = count == 5 ? read(session.inputs(), arguments[4]) : made_up(session.inputs(), true);

    write(session.record({before.begin(), before.end()}), out / "record");
    say(session.report());
    session.save(out / "state.safetensors");  // another program, or this one later, may load it and edit at once

    write(session.edit({after.begin(), after.end()}), out / "edit");
    say(session.report());
  } catch (const std::exception& error) {
    std::cerr << "edit: " << error.what() << "\n";
    return 1;
  }
}

#include "npy.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <stdexcept>

constexpr size_t PREAMBLE = 10;  // "\x93NUMPY", version 1.0, length of the header
static const std::string MAGIC("\x93NUMPY\x01\x00", 8);

// What numpy.save writes in front of an array.
static std::string header_of(sige::DType dtype, const sige::Shape& shape) {
  const std::string name = sige::name_of(dtype);
  const char kind = name == "bool" ? 'b' : name[0];  // f, i, u or b
  const size_t bytes = sige::size_of(dtype);
  std::string text = std::string("{'descr': '") + (bytes == 1 ? '|' : '<') + kind + std::to_string(bytes) +
                     "', 'fortran_order': False, 'shape': (";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  text += shape.size() == 1 ? ",), }" : "), }";
  text.resize((PREAMBLE + text.size() + 64) / 64 * 64 - PREAMBLE - 1, ' ');
  text += '\n';
  return MAGIC + static_cast<char>(text.size() & 255) + static_cast<char>(text.size() >> 8) + text;
}

sige::Array zeros(const sige::Signature& input) {
  size_t bytes = sige::size_of(input.dtype);
  for (const int64_t size : input.shape) bytes *= static_cast<size_t>(size);
  sige::Array array;
  array.dtype = input.dtype;
  array.shape = input.shape;
  array.bytes.resize(bytes);
  return array;
}

sige::Array read_npy(const std::filesystem::path& file, const sige::Signature& input) {
  std::ifstream stream(file, std::ios::binary);
  const std::string data{std::istreambuf_iterator<char>(stream), {}};
  if (!stream) throw std::runtime_error("'" + file.string() + "' cannot be read.");
  // All that differs between writers is how many spaces follow.
  const std::string wanted = header_of(input.dtype, input.shape).substr(PREAMBLE);
  const std::string dict = wanted.substr(0, wanted.find('}') + 1);
  const auto byte = [&](size_t at) { return at < data.size() ? static_cast<unsigned char>(data[at]) : 0u; };
  const size_t start = PREAMBLE + byte(8) + 256 * byte(9);
  sige::Array array = zeros(input);
  if (data.size() != start + array.bytes.size() || data.compare(0, MAGIC.size(), MAGIC) ||
      data.compare(PREAMBLE, dict.size(), dict))
    throw std::runtime_error("'" + file.string() + "' is no array " + dict + " in version 1.0 of the format.");
  std::copy(data.begin() + static_cast<std::ptrdiff_t>(start), data.end(), array.bytes.begin());
  return array;
}

void write_npy(const std::filesystem::path& file, const sige::Array& array) {
  std::ofstream stream(file, std::ios::binary);
  stream << header_of(array.dtype, array.shape);
  stream.write(array.data<char>(), static_cast<std::streamsize>(array.bytes.size()));
  if (!stream.flush()) throw std::runtime_error("'" + file.string() + "' cannot be written.");
}

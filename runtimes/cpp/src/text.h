// Words of error sentences.
#pragma once

#include <string>
#include <vector>

#include "sige/session.h"

namespace sige {

inline std::string named(const std::string& text) { return "'" + text + "'"; }

// "[1, 3, 16, 24]"
inline std::string listed(const Shape& sizes) {
  std::string result = "[";
  for (size_t i = 0; i < sizes.size(); ++i) result += (i ? ", " : "") + std::to_string(sizes[i]);
  return result + "]";
}

// "'image', 'gain'"
inline std::string listed(const std::vector<std::string>& names) {
  std::string result;
  for (const std::string& name : names) result += (result.empty() ? "" : ", ") + named(name);
  return result;
}

}  // namespace sige

// The recorded state as one safetensors file, the same that Python sessions write (sige_deploy/caches.py).
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "manifest.h"

namespace sige {

// Arrays by part of the state ("input", "output" or "cache"), then by name.
using SavedState = std::map<std::string, std::map<std::string, Array>>;

// Writes `file`; an older one there stays whole until the new one is. `find` gives an array by part and name; its
// memory must stay until the next one is asked for. Throws CACHE when the file cannot be written.
void save_state(const std::filesystem::path& file, const Manifest& manifest,
                const std::function<View(const std::string& part, const std::string& name)>& find);

// All arrays of a file. Throws CACHE, before anything is used, if the file is missing, damaged, of another bundle or of
// a newer version.
SavedState load_state(const std::filesystem::path& file, const Manifest& manifest);

}  // namespace sige

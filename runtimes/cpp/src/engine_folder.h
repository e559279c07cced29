// TensorRT engines of a bundle: folders tensorrt/<target>/, checked before TensorRT reads any of them
// (sige_deploy/engines.py).
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "bundle.h"

namespace sige {

// The libraries that an engine calls: the kernels' API version, and the SHA-256 (hex) of each file.
struct PluginSpec {
  int64_t api_version = 0;
  std::string libsige_tensorrt;
  std::string libsige_kernels;
};

// What must hold before an engine is deserialised. flavour: "tensorrt" or "tensorrt-rtx". version: of TensorRT, in
// full. capabilities: of the GPUs that the engines run on, as "9.0".
struct EngineManifest {
  std::string bundle;
  std::string flavour;
  std::string version;
  std::vector<std::string> capabilities;
  PluginSpec plugin;
  std::map<std::string, FileSpec> files;
};

// The folder whose engines this TensorRT can run on this GPU, by its manifest alone. Throws Error (RUNTIME) with what
// there is instead, and the command that builds what is missing.
std::filesystem::path find_engine(const Bundle& bundle, const std::string& flavour, const std::string& version,
                                  const std::string& capability);

// Checks a folder of engines: schema, then size and SHA-256 of every file. Throws Error (BUNDLE).
EngineManifest read_engine(const std::filesystem::path& folder);

// Refuses engines that are not for this bundle (BUNDLE), or not for this TensorRT, GPU and plugin library (RUNTIME).
void check_engine(const EngineManifest& manifest, const std::string& flavour, const std::string& version,
                  const std::string& capability, const PluginSpec& plugin, const Bundle& bundle);

}  // namespace sige

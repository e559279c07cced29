// Arrays in .npy files.
#pragma once

#include <filesystem>

#include "sige/session.h"

// An array that fits an input: zeros, or out of a file. Throws std::runtime_error with one sentence where the file cannot
// be read, or holds another dtype or shape.
sige::Array zeros(const sige::Signature& input);
sige::Array read_npy(const std::filesystem::path& file, const sige::Signature& input);

// Throws std::runtime_error.
void write_npy(const std::filesystem::path& file, const sige::Array& array);

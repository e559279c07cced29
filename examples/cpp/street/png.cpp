#include "png.h"

#include <png.h>

#include <stdexcept>

static void refuse(const std::string& file, const png_image& image) {
  throw std::runtime_error("'" + file + "': " + image.message + ".");
}

Picture read_grey(const std::string& file) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  if (!png_image_begin_read_from_file(&image, file.c_str())) refuse(file, image);
  image.format = PNG_FORMAT_GRAY;
  Picture picture{static_cast<int>(image.height), static_cast<int>(image.width), {}};
  picture.pixels.resize(PNG_IMAGE_SIZE(image));
  if (!png_image_finish_read(&image, nullptr, picture.pixels.data(), 0, nullptr)) refuse(file, image);
  return picture;
}

void write_colour(const std::string& file, const Picture& picture) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.height = static_cast<png_uint_32>(picture.height);
  image.width = static_cast<png_uint_32>(picture.width);
  image.format = PNG_FORMAT_RGB;
  if (!png_image_write_to_file(&image, file.c_str(), 0, picture.pixels.data(), 0, nullptr)) refuse(file, image);
}

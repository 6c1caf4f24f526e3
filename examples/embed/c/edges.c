/* The edges of a picture, from C: a convolution with two Sobel filters, and their lengths.

     edges < picture.pgm > edges.pgm        8-bit binary PGM */
#include <fastdl/fastdl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static fastdl_tensor tensor(float* data, int32_t ndim, int64_t* shape) {
  fastdl_tensor t = {data, {FASTDL_CPU, 0}, ndim, {FASTDL_FLOAT, 32, 1}, shape, NULL, 0};
  return t;
}

int main(void) {
  int width, height, most;
  float *picture, *gradient;
  float filters[2][3][3] = {{{-1, 0, 1}, {-2, 0, 2}, {-1, 0, 1}}, {{-1, -2, -1}, {0, 0, 0}, {1, 2, 1}}};
  int64_t filters_shape[4] = {2, 1, 3, 3}, x_shape[4], y_shape[4], pixels, i;
  fastdl_tensor x, w = tensor(&filters[0][0][0], 4, filters_shape), y;
  fastdl_conv_options options = FASTDL_CONV_OPTIONS_INIT;
  int c;

  if (scanf("P5 %d %d %d", &width, &height, &most) != 3 || width < 1 || height < 1 || most > 255) {
    fprintf(stderr, "edges: expected a binary PGM picture\n");
    return 1;
  }
  getchar(); /* the one white space before the pixels */
  pixels = (int64_t)width * height;
  picture = malloc((size_t)pixels * sizeof *picture);
  gradient = malloc((size_t)pixels * 2 * sizeof *gradient);
  if (!picture || !gradient) return 2;
  for (i = 0; i < pixels && (c = getchar()) != EOF; ++i) picture[i] = (float)c;

  x_shape[0] = y_shape[0] = x_shape[1] = 1;
  y_shape[1] = 2;
  x_shape[2] = y_shape[2] = height;
  x_shape[3] = y_shape[3] = width;
  x = tensor(picture, 4, x_shape);
  y = tensor(gradient, 4, y_shape);
  options.padding[0] = options.padding[1] = options.padding_end[0] = options.padding_end[1] = 1;
  if (i < pixels || fastdl_conv_forward(NULL, &x, &w, NULL, NULL, &y, &options) != FASTDL_OK) {
    fprintf(stderr, "edges: %s\n", i < pixels ? "the picture is cut short" : fastdl_last_error());
    return 1;
  }

  printf("P5 %d %d 255\n", width, height);
  for (i = 0; i < pixels; ++i) {
    const float length = hypotf(gradient[i], gradient[pixels + i]) / 4;
    putchar(length > 255 ? 255 : (int)length);
  }
  free(picture);
  free(gradient);
  return 0;
}

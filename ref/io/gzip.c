/** gzip by zlib, strict about what follows and capped in size (file.h). */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "file.h"

#define GZIP_ONLY (15 + 16)     /* windowBits: largest window, gzip wrapper */
#define CHUNK ((size_t)1 << 30) /* zlib counts in 32 bits */

static uInt at_most_chunk(size_t size) { return (uInt)(size < CHUNK ? size : CHUNK); }

mr3d_status mr3d_gunzip(const void *bytes, size_t size, uint64_t cap, void **inflated, size_t *inflated_size, mr3d_error *error) {
  z_stream stream = {0};
  if (inflateInit2(&stream, GZIP_ONLY) != Z_OK)
    return mr3d_fail(error, MR3D_IO, "zlib cannot start: %s", stream.msg ? stream.msg : "no reason given");
  const unsigned char *in = bytes;
  size_t in_left = size, capacity = size < 4096 ? 16384 : 4 * size, used = 0;
  unsigned char *out = NULL;
  int members = 0;
  mr3d_status status = MR3D_OK;

  for (;;) {
    if (out == NULL || used == capacity) { /* one byte above the cap is enough to see that it is passed */
      capacity = out == NULL ? capacity : 2 * capacity;
      capacity = capacity > cap ? (size_t)cap + 1 : capacity;
      unsigned char *larger = realloc(out, capacity);
      if (larger == NULL) {
        status = mr3d_fail(error, MR3D_IO, "out of memory while inflating to %zu bytes", capacity);
        break;
      }
      out = larger;
    }
    stream.next_in = (unsigned char *)in;
    stream.avail_in = at_most_chunk(in_left);
    stream.next_out = out + used;
    stream.avail_out = at_most_chunk(capacity - used);
    const uInt in_before = stream.avail_in, out_before = stream.avail_out;
    const int result = inflate(&stream, Z_NO_FLUSH);
    in += in_before - stream.avail_in;
    in_left -= in_before - stream.avail_in;
    used += out_before - stream.avail_out;
    const size_t at = size - in_left;

    if (used > cap) {
      status = mr3d_fail(error, MR3D_FORMAT, "inflates to more than the %llu bytes allowed", (unsigned long long)cap);
      break;
    }
    if (result == Z_STREAM_END) {
      members++;
      if (in_left == 0)
        break;
      inflateReset(&stream);
      continue;
    }
    const bool damaged = result != Z_OK && result != Z_BUF_ERROR, cut = in_left == 0 && stream.avail_out > 0;
    if (!damaged && !cut)
      continue;
    if (members > 0 && stream.total_out == 0)
      status =
          mr3d_fail(error, MR3D_FORMAT, "bytes that are no gzip member follow the last one (near byte %zu of %zu)", at, size);
    else if (damaged)
      status = mr3d_fail(error, MR3D_FORMAT, "not valid gzip data near byte %zu of %zu: %s", at, size,
                         stream.msg ? stream.msg : "damaged");
    else
      status = mr3d_fail(error, MR3D_FORMAT, "gzip data is cut short after %zu bytes", size);
    break;
  }
  inflateEnd(&stream);
  if (status == MR3D_OK) {
    *inflated = out;
    *inflated_size = used;
  } else
    free(out);
  return status;
}

mr3d_status mr3d_gzip(const void *bytes, size_t size, void **compressed, size_t *compressed_size, mr3d_error *error) {
  z_stream stream = {0};
  if (deflateInit2(&stream, Z_BEST_COMPRESSION, Z_DEFLATED, GZIP_ONLY, 9, Z_DEFAULT_STRATEGY) != Z_OK)
    return mr3d_fail(error, MR3D_IO, "zlib cannot start: %s", stream.msg ? stream.msg : "no reason given");
  const unsigned char *in = bytes;
  size_t in_left = size, used = 0;
  const size_t capacity = size + (size >> 10) + 4096; /* above zlib's bound for data that cannot be compressed */
  unsigned char *out = mr3d_allocate((long long)capacity, 1);
  int result;
  do {
    stream.next_in = (unsigned char *)in;
    stream.avail_in = at_most_chunk(in_left);
    stream.next_out = out + used;
    stream.avail_out = at_most_chunk(capacity - used);
    const uInt in_before = stream.avail_in, out_before = stream.avail_out;
    result = deflate(&stream, in_left <= CHUNK ? Z_FINISH : Z_NO_FLUSH);
    in += in_before - stream.avail_in;
    in_left -= in_before - stream.avail_in;
    used += out_before - stream.avail_out;
  } while (result == Z_OK);
  deflateEnd(&stream);
  if (result != Z_STREAM_END) {
    free(out);
    return mr3d_fail(error, MR3D_IO, "zlib stopped with code %d", result);
  }
  *compressed = out;
  *compressed_size = used;
  return MR3D_OK;
}

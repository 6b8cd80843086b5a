/** JSON read strictly, on top of cJSON, which by itself forgives much (duplicate keys, trailing bytes, control characters ...). */
#ifndef MR3D_IO_JSON_H
#define MR3D_IO_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>

#include "mr3d/status.h"

typedef enum mr3d_json_numbers {
  MR3D_JSON_ANY_NUMBER,
  MR3D_JSON_COUNTS_ONLY, /**< digits only, below 2^53: no sign, fraction or exponent */
} mr3d_json_numbers;

/**
 * Parses exactly one JSON object (RFC 8259) that fills `size` bytes, blanks around it aside.
 *
 * Errors (MR3D_FORMAT, with the byte): another value than an object, bytes after it, bad grammar, invalid UTF-8, unpaired surrogates,
 * a NUL in a string, a duplicate key at any depth, nesting deeper than 64, more than ten million values.
 * Ownership: on success *object is the caller's, freed with cJSON_Delete.
 */
mr3d_status mr3d_json_parse(const char *text, size_t size, mr3d_json_numbers numbers, cJSON **object, mr3d_error *error);

/** Reads a member that is a whole number of 0 .. 2^53-1, as parsed under either rule. */
bool mr3d_json_is_count(const cJSON *value, int64_t *count);

/** Whether `size` bytes are valid UTF-8 (no surrogates, no overlong forms). *at is the first offending byte. */
bool mr3d_utf8_valid(const char *text, size_t size, size_t *at);

#endif

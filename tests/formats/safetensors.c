/** The safetensors reader accepts what the format allows and refuses everything else by name; the writer's files read back. */
#include "support.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <zlib.h>

#include "mr3d/safetensors.h"

/* ---- files made byte by byte ---- */

typedef struct blob {
  unsigned char *bytes;
  size_t size;
} blob;

/* A file of this header and `data_size` bytes 0, 1, 0, 1 ... In memory of exactly its size, so sanitizers see a read beyond it. */
static blob file_of(const char *header, size_t data_size) {
  const size_t length = strlen(header);
  blob b = {malloc(8 + length + data_size), 8 + length + data_size};
  for (int i = 0; i < 8; i++)
    b.bytes[i] = (unsigned char)((uint64_t)length >> 8 * i);
  memcpy(b.bytes + 8, header, length);
  for (size_t i = 0; i < data_size; i++)
    b.bytes[8 + length + i] = i & 1;
  return b;
}

static void refuse(const char *header, size_t data_size, const char *words) {
  mr3d_error error;
  mr3d_bundle *const untouched = (mr3d_bundle *)(void *)&error, *bundle = untouched;
  blob b = file_of(header, data_size);
  assert_refused(mr3d_safetensors_parse(b.bytes, b.size, &bundle, &error), MR3D_FORMAT, error, words);
  assert_ptr_equal(bundle, untouched);
  free(b.bytes);
}

static void accept(const char *header, size_t data_size) {
  mr3d_error error;
  mr3d_bundle *bundle = NULL;
  blob b = file_of(header, data_size);
  assert_done(mr3d_safetensors_parse(b.bytes, b.size, &bundle, &error), error);
  mr3d_bundle_free(&bundle);
  assert_null(bundle);
  free(b.bytes);
}

#define ENTRY(name, dtype, shape, begin, end) "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

/* ---- the file's frame ---- */

static void a_file_shorter_than_eight_bytes_is_refused(void **state) {
  (void)state;
  mr3d_error error;
  mr3d_bundle *bundle;
  assert_refused(mr3d_safetensors_parse("", 0, &bundle, &error), MR3D_FORMAT, error, "0 bytes");
  assert_refused(mr3d_safetensors_parse("\2\0\0\0\0\0\0", 7, &bundle, &error), MR3D_FORMAT, error, "7 bytes");
}

static void a_header_length_above_the_limit_is_refused(void **state) {
  (void)state;
  mr3d_error error;
  mr3d_bundle *bundle;
  const unsigned char above[] = {0x01, 0xe1, 0xf5, 0x05, 0, 0, 0, 0, '{', '}'}; /* 100,000,001 */
  const unsigned char at[] = {0x00, 0xe1, 0xf5, 0x05, 0, 0, 0, 0, '{', '}'};    /* 100,000,000: legal, but not there */
  const unsigned char huge[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, '{', '}'};
  assert_refused(mr3d_safetensors_parse(above, sizeof above, &bundle, &error), MR3D_FORMAT, error, "100000001 is above the limit");
  assert_refused(mr3d_safetensors_parse(at, sizeof at, &bundle, &error), MR3D_FORMAT, error, "only 2 bytes follow");
  assert_refused(mr3d_safetensors_parse(huge, sizeof huge, &bundle, &error), MR3D_FORMAT, error, "above the limit");
}

static void a_header_that_reaches_beyond_the_file_is_refused(void **state) {
  (void)state;
  mr3d_error error;
  mr3d_bundle *bundle;
  const unsigned char file[] = {3, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
  assert_refused(mr3d_safetensors_parse(file, sizeof file, &bundle, &error), MR3D_FORMAT, error, "header length is 3, but only 2");
}

static void a_header_that_is_no_object_is_refused(void **state) {
  (void)state;
  refuse("", 0, "does not start with '{'");
  refuse("[]", 0, "does not start with '{'");
  refuse(" {}", 0, "does not start with '{'"); /* blanks may only follow */
  refuse("\xEF\xBB\xBF{}", 0, "does not start with '{'");
  accept("{}", 0);
  accept("{}      ", 0);
}

static void bad_json_is_refused_with_its_byte(void **state) {
  (void)state;
  refuse("{", 0, "byte 1: expected a key");
  refuse("{}x", 0, "byte 2: something follows");
  refuse("{} {}", 0, "something follows");
  refuse("{\"a\"}", 0, "expected ':'");
  refuse("{\"a\":}", 0, "expected a value");
  refuse("{\"a\":{},}", 0, "byte 8: expected a key");
  refuse("{\"a\":[1,]}", 0, "expected a value");
  refuse("{\"a\":[1 2]}", 0, "expected ',' or ']'");
  refuse("{\"a\":{}\f}", 0, "expected ',' or '}'"); /* a form feed is no JSON blank */
  refuse("{\"a\":nul}", 0, "expected a value");
  refuse("{\"a", 0, "ends inside a string");
  refuse("{\"a\\", 0, "unknown escape");
  refuse("{\"\\x\":1}", 0, "unknown escape");
  refuse("{\"\\u12g4\":1}", 0, "four hexadecimal digits");
  refuse("{\"\\u12", 0, "four hexadecimal digits");
  refuse("{\"a\tb\":1}", 0, "control character");
  refuse("{\"a\\u0000b\":1}", 0, "\\u0000");
  refuse("{\"\\udc00\":1}", 0, "low surrogate");
  refuse("{\"\\ud800\":1}", 0, "high surrogate");
  refuse("{\"\\ud800\\u0041\":1}", 0, "high surrogate");
  accept("{\"\\ud83d\\ude00\\\"\\\\\\/\\b\\f\\n\\r\\t\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0);
}

static void a_header_that_is_not_utf8_is_refused(void **state) {
  (void)state;
  static const char *const bad[] = {"\xff", "\x80", "\xc0\xaf", "\xc1\x81", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf0\x80\x80\x80",
                                    "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xe2\x82", "\xc3"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    char header[64];
    snprintf(header, sizeof header, "{\"%s\":1}", bad[i]);
    refuse(header, 0, "invalid UTF-8");
  }
  accept("{\"\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80\xed\x9f\xbf\xf4\x8f\xbf\xbf\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0);
}

static void numbers_other_than_plain_counts_are_refused(void **state) {
  (void)state;
  refuse("{" ENTRY("a", "U8", "[-1]", 0, 0) "}", 0, "whole number without a sign");
  refuse("{" ENTRY("a", "U8", "[2.0]", 0, 2) "}", 2, "without fraction or exponent");
  refuse("{" ENTRY("a", "U8", "[2e0]", 0, 2) "}", 2, "without fraction or exponent");
  refuse("{" ENTRY("a", "U8", "[02]", 0, 2) "}", 2, "a number does not begin with 0");
  refuse("{" ENTRY("a", "U8", "[9007199254740992]", 0, 0) "}", 0, "2^53");
  refuse("{" ENTRY("a", "U8", "[18446744073709551617]", 0, 1) "}", 1, "2^53"); /* 2^64 + 1 */
  refuse("{" ENTRY("a", "U8", "[NaN]", 0, 1) "}", 1, "expected a value");
}

static void nesting_beyond_the_bound_is_refused(void **state) {
  (void)state;
  static char deep[200100] = "{\"a\":";
  memset(deep + 5, '[', 200000);
  refuse(deep, 0, "nested more than 64");
}

static void duplicate_keys_are_refused_at_every_depth(void **state) {
  (void)state;
  refuse("{" ENTRY("a", "U8", "[0]", 0, 0) "," ENTRY("a", "U8", "[0]", 0, 0) "}", 0, "\"a\" appears twice");
  refuse("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "\"dtype\" appears twice");
  refuse("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, "\"k\" appears twice");
  refuse("{\"__metadata__\":{},\"__metadata__\":{}}", 0, "appears twice");
  refuse("{" ENTRY("a", "U8", "[0]", 0, 0) "," ENTRY("\\u0061", "U8", "[0]", 0, 0) "}", 0, "\"a\" appears twice"); /* another spelling */
  accept("{" ENTRY("a", "U8", "[0]", 0, 0) "," ENTRY("A", "U8", "[0]", 0, 0) "}", 0);
}

/* ---- metadata and entries ---- */

static void metadata_maps_strings_to_strings_only(void **state) {
  (void)state;
  refuse("{\"__metadata__\":[]}", 0, "__metadata__ is not an object");
  refuse("{\"__metadata__\":null}", 0, "__metadata__ is not an object");
  refuse("{\"__metadata__\":{\"k\":1}}", 0, "value of \"k\" is not a string");
  refuse("{\"__metadata__\":{\"k\":null}}", 0, "value of \"k\" is not a string");
  accept("{\"__metadata__\":{\"k\":\"\"}}", 0);
}

static void an_entry_has_exactly_dtype_shape_and_offsets(void **state) {
  (void)state;
  refuse("{\"a\":1}", 0, "tensor \"a\": expected an object");
  refuse("{\"a\":{\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "dtype is missing");
  refuse("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,0]}}", 0, "shape is missing");
  refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[0]}}", 0, "data_offsets is missing");
  refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0],\"strides\":[1]}}", 0, "unknown field \"strides\"");
  refuse("{\"a\":{\"dtype\":7,\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "dtype is not a string");
  refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":0,\"data_offsets\":[0,0]}}", 0, "shape is not an array");
  refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[null],\"data_offsets\":[0,0]}}", 0, "size 0 of shape");
  refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":{}}}", 0, "data_offsets is not an array");
  refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0]}}", 0, "not a pair");
  refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0,0]}}", 0, "not a pair");
  refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,\"0\"]}}", 0, "not a pair");
}

static void an_unsupported_dtype_is_refused_and_the_known_ones_listed(void **state) {
  (void)state;
  refuse("{" ENTRY("a", "C64", "[1]", 0, 8) "}", 8, "\"C64\" is not supported; supported are BOOL U8");
  refuse("{" ENTRY("a", "f32", "[1]", 0, 4) "}", 4, "\"f32\" is not supported");
  refuse("{" ENTRY("a", "F4", "[2]", 0, 1) "}", 1, "F8_E5M2");
}

static void every_dtype_has_its_size(void **state) {
  (void)state;
  static const struct {
    const char *name;
    size_t size;
  } types[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"U16", 2},  {"I16", 2}, {"U32", 4}, {"I32", 4},     {"U64", 8},
               {"I64", 8},  {"F16", 2}, {"BF16", 2}, {"F32", 4}, {"F64", 8}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};
  assert_int_equal(sizeof types / sizeof *types, MR3D_N_DTYPES);
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    char header[128];
    snprintf(header, sizeof header, "{\"a\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,%zu]}}", types[i].name, 3 * types[i].size);
    accept(header, 3 * types[i].size);
    snprintf(header, sizeof header, "{\"a\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,%zu]}}", types[i].name, 3 * types[i].size + 1);
    refuse(header, 3 * types[i].size + 1, "needs");
  }
}

static void a_size_that_does_not_fit_its_offsets_is_refused(void **state) {
  (void)state;
  refuse("{" ENTRY("a", "F32", "[2,3]", 0, 20) "}", 20, "shape [2,3] of F32 needs 24 bytes, data_offsets [0,20] hold 20");
  refuse("{" ENTRY("a", "F32", "[]", 0, 8) "}", 8, "shape [] of F32 needs 4 bytes");
  refuse("{" ENTRY("a", "F32", "[0]", 0, 4) "}", 4, "needs 0 bytes");
}

static void a_size_that_overflows_is_refused(void **state) {
  (void)state;
  refuse("{" ENTRY("a", "F64", "[4294967296,4294967296]", 0, 0) "}", 0, "larger than any file"); /* 2^64 · 8 = 0 modulo 2^64 */
  refuse("{" ENTRY("a", "U8", "[4294967296,4294967296]", 0, 0) "}", 0, "larger than any file");
  refuse("{" ENTRY("a", "F64", "[2305843009213693952]", 0, 0) "}", 0, "2^53");
  refuse("{" ENTRY("a", "U8", "[0,4503599627370496,4503599627370496]", 0, 0) "}", 0, "larger than any file"); /* its strides overflow */
  refuse("{" ENTRY("a", "U8", "[4503599627370496,4503599627370496,0]", 0, 0) "}", 0, "larger than any file");
}

static void a_rank_above_the_limit_is_refused(void **state) {
  (void)state;
  refuse("{" ENTRY("a", "U8", "[1,1,1,1,1,1,1,1,1]", 0, 1) "}", 1, "rank 9; at most 8");
  accept("{" ENTRY("a", "U8", "[1,1,1,1,1,1,1,1]", 0, 1) "}", 1);
}

static void zero_sizes_and_scalars_are_legal(void **state) {
  (void)state;
  mr3d_error error;
  mr3d_bundle *bundle = NULL;
  blob b = file_of("{" ENTRY("none", "F32", "[0,4503599627370496]", 0, 0) "," ENTRY("one", "U8", "[]", 0, 1) "," ENTRY("end", "F64", "[3,0]", 1, 1) "}", 1);
  assert_done(mr3d_safetensors_parse(b.bytes, b.size, &bundle, &error), error);
  assert_int_equal(mr3d_bundle_count(bundle), 3);
  for (int i = 0; i < 3; i++)
    assert_non_null(mr3d_bundle_at(bundle, i)->data);
  assert_int_equal(mr3d_tensor_count(mr3d_bundle_find(bundle, "none")), 0);
  assert_int_equal(mr3d_tensor_count(mr3d_bundle_find(bundle, "one")), 1);
  assert_null(mr3d_bundle_find(bundle, "two"));
  mr3d_bundle_free(&bundle);
  free(b.bytes);
}

/* ---- tiling ---- */

static void offsets_outside_the_data_are_refused(void **state) {
  (void)state;
  refuse("{" ENTRY("a", "U8", "[4]", 0, 4) "}", 3, "do not lie within the data section of 3 bytes");
  refuse("{" ENTRY("a", "U8", "[0]", 2, 1) "}", 3, "[2,1] do not lie within");
  refuse("{" ENTRY("a", "U8", "[1]", 9007199254740990, 9007199254740991) "}", 3, "do not lie within");
}

static void a_hole_in_the_data_is_refused(void **state) {
  (void)state;
  refuse("{" ENTRY("a", "U8", "[1]", 0, 1) "," ENTRY("b", "U8", "[1]", 2, 3) "}", 3, "\"b\": data begins at 2, but the data before it ends at 1: there is a hole");
  refuse("{" ENTRY("a", "U8", "[1]", 1, 2) "}", 2, "there is a hole");
  refuse("{" ENTRY("a", "U8", "[1]", 0, 1) "," ENTRY("z", "U8", "[0]", 2, 2) "," ENTRY("b", "U8", "[1]", 1, 2) "," ENTRY("c", "U8", "[0]", 3, 3) "}", 3, "there is a hole");
}

static void overlapping_tensors_are_refused(void **state) {
  (void)state;
  refuse("{" ENTRY("a", "U8", "[2]", 0, 2) "," ENTRY("b", "U8", "[2]", 1, 3) "}", 3, "tensors overlap");
  refuse("{" ENTRY("a", "U8", "[2]", 0, 2) "," ENTRY("b", "U8", "[2]", 0, 2) "}", 2, "tensors overlap");
  refuse("{" ENTRY("a", "U8", "[4]", 0, 4) "," ENTRY("b", "U8", "[0]", 2, 2) "}", 4, "tensors overlap");
}

static void bytes_behind_the_last_tensor_are_refused(void **state) {
  (void)state;
  refuse("{" ENTRY("a", "U8", "[2]", 0, 2) "}", 3, "1 bytes follow the last tensor");
  refuse("{}", 1, "1 bytes follow the last tensor");
}

static void entries_may_stand_in_another_order_than_their_data(void **state) {
  (void)state;
  mr3d_error error;
  mr3d_bundle *bundle = NULL;
  blob b = file_of("{" ENTRY("late", "U8", "[1]", 2, 3) "," ENTRY("early", "U8", "[2]", 0, 2) "}", 3);
  assert_done(mr3d_safetensors_parse(b.bytes, b.size, &bundle, &error), error);
  assert_string_equal(mr3d_bundle_at(bundle, 0)->name, "late");
  assert_ptr_equal(mr3d_bundle_at(bundle, 0)->data, b.bytes + b.size - 1);
  mr3d_bundle_free(&bundle);
  free(b.bytes);
}

static void a_bool_byte_other_than_0_and_1_is_refused(void **state) {
  (void)state;
  mr3d_error error;
  mr3d_bundle *bundle;
  blob b = file_of("{" ENTRY("a", "BOOL", "[3]", 0, 3) "}", 3);
  b.bytes[b.size - 2] = 2;
  assert_refused(mr3d_safetensors_parse(b.bytes, b.size, &bundle, &error), MR3D_FORMAT, error, "element 1 of BOOL holds 2");
  free(b.bytes);
}

static void unaligned_data_is_copied_and_aligned_data_borrowed(void **state) {
  (void)state;
  mr3d_error error;
  mr3d_bundle *bundle = NULL;
  for (int blanks = 0; blanks < 8; blanks++) {
    char header[256];
    snprintf(header, sizeof header, "{" ENTRY("a", "F64", "[2]", 0, 16) "}%*s", blanks, "");
    blob b = file_of(header, 16);
    const double numbers[2] = {1.5, -2.25};
    memcpy(b.bytes + b.size - 16, numbers, 16);
    assert_done(mr3d_safetensors_parse(b.bytes, b.size, &bundle, &error), error);
    const mr3d_tensor *a = mr3d_bundle_find(bundle, "a");
    const bool aligned = (uintptr_t)(b.bytes + b.size - 16) % 8 == 0;
    assert_int_equal(a->data == b.bytes + b.size - 16, aligned);
    assert_int_equal((uintptr_t)a->data % 8, 0);
    assert_memory_equal(a->data, numbers, 16);
    mr3d_bundle_free(&bundle);
    free(b.bytes);
  }
}

/* ---- writing, files ---- */

static mr3d_bundle *every_type(void) {
  mr3d_bundle *bundle = mr3d_bundle_new();
  for (int dtype = 0; dtype < MR3D_N_DTYPES; dtype++) {
    mr3d_tensor *t = mr3d_bundle_add(bundle, mr3d_dtype_name((mr3d_dtype)dtype), (mr3d_dtype)dtype, 2, (int64_t[]){3, 5});
    for (size_t i = 0; i < 15 * mr3d_dtype_size(t->dtype); i++)
      ((unsigned char *)t->data)[i] = dtype == MR3D_BOOL ? i & 1 : (unsigned char)(37 * i + (size_t)dtype);
  }
  mr3d_bundle_add(bundle, "scalar", MR3D_F64, 0, NULL);
  mr3d_bundle_add(bundle, "empty \"quoted\"\n\xc3\xbc", MR3D_I16, 3, (int64_t[]){2, 0, 7});
  mr3d_bundle_set(bundle, "config", "{\"rope_theta\": 1e6, \"text\": \"\\u00fc\"}");
  mr3d_bundle_setf(bundle, "past_len", "%d", 786);
  mr3d_bundle_set(bundle, "", "");
  return bundle;
}

static void assert_same(const mr3d_bundle *a, const mr3d_bundle *b) {
  assert_int_equal(mr3d_bundle_count(a), mr3d_bundle_count(b));
  for (int i = 0; i < mr3d_bundle_count(a); i++) {
    const mr3d_tensor *x = mr3d_bundle_at(a, i), *y = mr3d_bundle_at(b, i);
    assert_string_equal(x->name, y->name);
    assert_int_equal(x->dtype, y->dtype);
    assert_int_equal(x->rank, y->rank);
    assert_memory_equal(x->shape, y->shape, sizeof x->shape);
    assert_memory_equal(x->data, y->data, (size_t)mr3d_tensor_count(x) * mr3d_dtype_size(x->dtype));
    assert_int_equal((uintptr_t)y->data % mr3d_dtype_size(y->dtype), 0);
  }
  assert_int_equal(mr3d_bundle_meta_count(a), mr3d_bundle_meta_count(b));
  for (int i = 0; i < mr3d_bundle_meta_count(a); i++) {
    const char *key, *value;
    mr3d_bundle_meta_at(a, i, &key, &value);
    assert_string_equal(value, mr3d_bundle_get(b, key));
  }
}

static void what_is_written_reads_back_equal(void **state) {
  (void)state;
  char path[256];
  mr3d_error error;
  for (int gz = 0; gz < 2; gz++) {
    mr3d_bundle *written = every_type(), *read = NULL;
    temporary(path, gz ? "all.safetensors.gz" : "all.safetensors");
    assert_done(mr3d_safetensors_save(path, written, &error), error);
    assert_done(mr3d_safetensors_open(path, 0, &read, &error), error);
    assert_same(written, read);
    mr3d_bundle_free(&written);
    mr3d_bundle_free(&read);
    unlink(path);
  }
}

static void equal_bundles_are_written_as_equal_bytes(void **state) {
  (void)state;
  char path[256];
  mr3d_error error;
  static unsigned char first[1 << 16], second[1 << 16];
  size_t sizes[2];
  for (int turn = 0; turn < 2; turn++) {
    mr3d_bundle *bundle = every_type();
    assert_done(mr3d_safetensors_save(temporary(path, "same.gz"), bundle, &error), error);
    mr3d_bundle_free(&bundle);
    FILE *file = fopen(path, "rb");
    sizes[turn] = fread(turn ? second : first, 1, sizeof first, file);
    fclose(file);
    unlink(path);
  }
  assert_int_equal(sizes[0], sizes[1]);
  assert_memory_equal(first, second, sizes[0]);
  assert_memory_equal(first + 4, "\0\0\0\0", 4); /* no time stamp */
}

static void the_header_is_padded_to_eight_bytes(void **state) {
  (void)state;
  mr3d_error error;
  for (int length = 1; length < 10; length++) {
    mr3d_bundle *bundle = mr3d_bundle_new();
    char name[16] = "";
    memset(name, 'n', (size_t)length);
    mr3d_bundle_add(bundle, name, MR3D_U8, 1, (int64_t[]){5});
    void *bytes;
    size_t size;
    assert_done(mr3d_safetensors_serialize(bundle, &bytes, &size, &error), error);
    assert_int_equal((size - 5) % 8, 0);
    assert_int_equal(((unsigned char *)bytes)[0] + 256 * ((unsigned char *)bytes)[1] + 8 + 5, size);
    mr3d_bundle_free(&bundle);
    free(bytes);
  }
}

static void names_and_metadata_that_are_not_utf8_are_not_written(void **state) {
  (void)state;
  mr3d_error error;
  void *bytes = NULL;
  size_t size;
  mr3d_bundle *bundle = mr3d_bundle_new();
  mr3d_bundle_set(bundle, "k", "\xff");
  assert_refused(mr3d_safetensors_serialize(bundle, &bytes, &size, &error), MR3D_INVALID, error, "not UTF-8");
  mr3d_bundle_set(bundle, "k", "fine");
  mr3d_bundle_add(bundle, "\xc3", MR3D_U8, 0, NULL);
  assert_refused(mr3d_safetensors_serialize(bundle, &bytes, &size, &error), MR3D_INVALID, error, "cannot be a tensor's name");
  mr3d_bundle_free(&bundle);
  bundle = mr3d_bundle_new();
  mr3d_bundle_add(bundle, "__metadata__", MR3D_U8, 0, NULL);
  assert_refused(mr3d_safetensors_serialize(bundle, &bytes, &size, &error), MR3D_INVALID, error, "cannot be a tensor's name");
  mr3d_bundle_free(&bundle);
  assert_null(bytes);
}

static void a_failed_write_leaves_what_was_there(void **state) {
  (void)state;
  char path[256], content[8] = "";
  mr3d_error error;
  mr3d_bundle *bundle = mr3d_bundle_new();
  mr3d_bundle_set(bundle, "k", "\xff");
  write_bytes(temporary(path, "kept"), "before", 6);
  assert_refused(mr3d_safetensors_save(path, bundle, &error), MR3D_INVALID, error, path);
  FILE *file = fopen(path, "rb");
  assert_int_equal(fread(content, 1, sizeof content, file), 6);
  fclose(file);
  unlink(path);
  assert_string_equal(content, "before");
  mr3d_bundle_set(bundle, "k", "fine");
  assert_refused(mr3d_safetensors_save("/nowhere/at/all", bundle, &error), MR3D_IO, error, "/nowhere/at/all: cannot create it: No such file");
  mr3d_bundle_free(&bundle);
}

static void what_is_no_readable_file_is_refused_with_its_path(void **state) {
  (void)state;
  char path[256];
  mr3d_error error;
  mr3d_bundle *bundle;
  assert_refused(mr3d_safetensors_open("/nowhere/at/all", 0, &bundle, &error), MR3D_IO, error, "/nowhere/at/all: cannot open it: No such file");
  assert_refused(mr3d_safetensors_open("/", 0, &bundle, &error), MR3D_IO, error, "a folder");
  assert_refused(mr3d_safetensors_open("/dev/null", 0, &bundle, &error), MR3D_IO, error, "not a regular file");
  assert_int_equal(mkfifo(temporary(path, "pipe"), 0600), 0); /* nobody writes: must not wait */
  assert_refused(mr3d_safetensors_open(path, 0, &bundle, &error), MR3D_IO, error, "not a regular file");
  unlink(path);
  write_bytes(temporary(path, "void"), "", 0);
  assert_refused(mr3d_safetensors_open(path, 0, &bundle, &error), MR3D_FORMAT, error, "0 bytes");
  unlink(path);
}

static void a_plain_file_is_mapped_read_only(void **state) {
  (void)state;
  char path[256];
  mr3d_error error;
  mr3d_bundle *bundle = every_type(), *read = NULL;
  assert_done(mr3d_safetensors_save(temporary(path, "mapped"), bundle, &error), error);
  assert_done(mr3d_safetensors_open(path, 0, &read, &error), error);
  unlink(path);
  const pid_t child = fork();
  if (child == 0) { /* must die by the write */
    signal(SIGSEGV, SIG_DFL);
    ((volatile char *)mr3d_bundle_find(read, "F32")->data)[0] = 1;
    _exit(0);
  }
  int outcome = 0;
  assert_int_equal(waitpid(child, &outcome, 0), child);
  assert_true(WIFSIGNALED(outcome) && WTERMSIG(outcome) == SIGSEGV);
  mr3d_bundle_free(&bundle);
  mr3d_bundle_free(&read);
}

/* ---- gzip ---- */

/* Opens bytes as the content of a .gz file. */
static mr3d_status open_gz(const void *bytes, size_t size, uint64_t cap, mr3d_bundle **bundle, mr3d_error *error) {
  char path[256];
  write_bytes(temporary(path, "case.gz"), bytes, size);
  const mr3d_status status = mr3d_safetensors_open(path, cap, bundle, error);
  unlink(path);
  return status;
}

static size_t gzip(const void *bytes, size_t size, unsigned char *out, size_t capacity) {
  z_stream stream = {.next_in = (unsigned char *)bytes, .avail_in = (uInt)size, .next_out = out, .avail_out = (uInt)capacity};
  assert_int_equal(deflateInit2(&stream, 9, Z_DEFLATED, 31, 9, Z_DEFAULT_STRATEGY), Z_OK);
  assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
  deflateEnd(&stream);
  return stream.total_out;
}

static void a_gzip_bomb_is_refused_at_the_cap(void **state) {
  (void)state;
  mr3d_error error;
  mr3d_bundle *bundle = NULL;
  enum { SIZE = 1 << 24 };
  static unsigned char packed[1 << 17];
  blob b = file_of("{" ENTRY("a", "U8", "[16777216]", 0, 16777216) "}", SIZE);
  const size_t size = gzip(b.bytes, b.size, packed, sizeof packed);
  assert_refused(open_gz(packed, size, 1 << 20, &bundle, &error), MR3D_FORMAT, error, "inflates to more than the 1048576 bytes");
  assert_refused(open_gz(packed, size, b.size - 1, &bundle, &error), MR3D_FORMAT, error, "inflates to more than");
  assert_done(open_gz(packed, size, b.size, &bundle, &error), error); /* exactly at the cap */
  mr3d_bundle_free(&bundle);
  free(b.bytes);
}

static void damaged_cut_and_trailed_gzip_data_are_refused(void **state) {
  (void)state;
  mr3d_error error;
  mr3d_bundle *bundle = NULL;
  static unsigned char packed[4096];
  blob b = file_of("{" ENTRY("a", "U8", "[1000]", 0, 1000) "}", 1000);
  const size_t size = gzip(b.bytes, b.size, packed, sizeof packed / 4);
  assert_refused(open_gz("", 0, 0, &bundle, &error), MR3D_FORMAT, error, "cut short");
  assert_refused(open_gz(b.bytes, b.size, 0, &bundle, &error), MR3D_FORMAT, error, "not valid gzip data");
  for (size_t length = 1; length < size; length++)
    assert_refused(open_gz(packed, length, 0, &bundle, &error), MR3D_FORMAT, error, "cut short");
  packed[size] = 0;
  assert_refused(open_gz(packed, size + 1, 0, &bundle, &error), MR3D_FORMAT, error, "no gzip member");
  memcpy(packed + size, "garbage behind the data", 23);
  assert_refused(open_gz(packed, size + 23, 0, &bundle, &error), MR3D_FORMAT, error, "no gzip member");
  packed[size - 5] ^= 1; /* the check sum */
  assert_refused(open_gz(packed, size, 0, &bundle, &error), MR3D_FORMAT, error, "incorrect data check");
  free(b.bytes);
}

static void gzip_members_are_joined(void **state) {
  (void)state;
  mr3d_error error;
  mr3d_bundle *bundle = NULL;
  unsigned char packed[4096];
  blob b = file_of("{" ENTRY("a", "U8", "[1000]", 0, 1000) "}", 1000);
  size_t size = gzip(b.bytes, 500, packed, sizeof packed);
  size += gzip(b.bytes + 500, b.size - 500, packed + size, sizeof packed - size);
  assert_done(open_gz(packed, size, 0, &bundle, &error), error);
  assert_memory_equal(mr3d_bundle_find(bundle, "a")->data, b.bytes + b.size - 1000, 1000);
  mr3d_bundle_free(&bundle);
  free(b.bytes);
}

/* ---- whatever the bytes, no crash ---- */

static void survive(const unsigned char *bytes, size_t size) {
  mr3d_error error = {0};
  mr3d_bundle *bundle = NULL;
  unsigned char *exact = malloc(size > 0 ? size : 1); /* of the file's own size: sanitizers see one byte too many */
  memcpy(exact, bytes, size);
  if (mr3d_safetensors_parse(exact, size, &bundle, &error) == MR3D_OK) {
    double values[64];
    for (int i = 0; i < mr3d_bundle_count(bundle); i++)
      if (mr3d_tensor_count(mr3d_bundle_at(bundle, i)) <= 64)
        mr3d_tensor_to_double(mr3d_bundle_at(bundle, i), values);
    mr3d_bundle_free(&bundle);
  } else {
    assert_int_equal(error.status, MR3D_FORMAT);
    assert_true(strlen(error.message) > 10);
    assert_null(bundle);
  }
  free(exact);
}

static void every_changed_byte_and_every_cut_is_read_or_refused(void **state) {
  (void)state;
  blob b = file_of("{\"__metadata__\":{\"k\":\"v\\n\"}," ENTRY("a", "F32", "[2,1]", 0, 8) "," ENTRY("b", "BOOL", "[]", 8, 9) "}", 9);
  for (size_t size = 0; size < b.size; size++)
    survive(b.bytes, size);
  for (size_t i = 0; i < b.size; i++)
    for (int change = 1; change < 256; change++) {
      b.bytes[i] ^= (unsigned char)change;
      survive(b.bytes, b.size);
      b.bytes[i] ^= (unsigned char)change;
    }
  free(b.bytes);
}

static void many_tensors_are_found_by_name(void **state) {
  (void)state;
  mr3d_bundle *bundle = mr3d_bundle_new();
  char name[16];
  for (int i = 0; i < 20000; i++) {
    snprintf(name, sizeof name, "t%d", i);
    mr3d_bundle_add(bundle, name, MR3D_U8, 0, NULL);
    mr3d_bundle_setf(bundle, name, "%d", i);
  }
  mr3d_bundle_set(bundle, "t7", "seven");
  assert_int_equal(mr3d_bundle_meta_count(bundle), 20000);
  for (int i = 0; i < 20000; i++) {
    snprintf(name, sizeof name, "t%d", i);
    assert_ptr_equal(mr3d_bundle_find(bundle, name), mr3d_bundle_at(bundle, i));
    assert_string_equal(mr3d_bundle_get(bundle, name), i == 7 ? "seven" : name + 1);
  }
  mr3d_bundle_free(&bundle);
}

static void messages_are_one_line_and_fit(void **state) {
  (void)state;
  mr3d_error error = {0};
  char big[3000];
  memset(big, 'x', sizeof big);
  big[sizeof big - 1] = '\0';
  assert_int_equal(mr3d_fail(&error, MR3D_IO, "a\n%s\x1b[0m", "b"), MR3D_IO);
  assert_string_equal(error.message, "a?b?[0m");
  assert_int_equal(mr3d_fail_in(&error, "in %s", "there"), MR3D_IO);
  assert_string_equal(error.message, "in there: a?b?[0m");
  mr3d_fail(&error, MR3D_IO, "%s", big);
  assert_int_equal(strlen(error.message), sizeof error.message - 1);
  for (int shift = 0; shift < 4; shift++) { /* never cut inside a character */
    mr3d_fail(&error, MR3D_IO, "%.*s\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac", 1017 + shift, big);
    assert_int_equal((strlen(error.message) - (size_t)(1017 + shift)) % 3, 0);
  }
  assert_int_equal(mr3d_fail(NULL, MR3D_FORMAT, "unread"), MR3D_FORMAT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_file_shorter_than_eight_bytes_is_refused),
      cmocka_unit_test(a_header_length_above_the_limit_is_refused),
      cmocka_unit_test(a_header_that_reaches_beyond_the_file_is_refused),
      cmocka_unit_test(a_header_that_is_no_object_is_refused),
      cmocka_unit_test(bad_json_is_refused_with_its_byte),
      cmocka_unit_test(a_header_that_is_not_utf8_is_refused),
      cmocka_unit_test(numbers_other_than_plain_counts_are_refused),
      cmocka_unit_test(nesting_beyond_the_bound_is_refused),
      cmocka_unit_test(duplicate_keys_are_refused_at_every_depth),
      cmocka_unit_test(metadata_maps_strings_to_strings_only),
      cmocka_unit_test(an_entry_has_exactly_dtype_shape_and_offsets),
      cmocka_unit_test(an_unsupported_dtype_is_refused_and_the_known_ones_listed),
      cmocka_unit_test(every_dtype_has_its_size),
      cmocka_unit_test(a_size_that_does_not_fit_its_offsets_is_refused),
      cmocka_unit_test(a_size_that_overflows_is_refused),
      cmocka_unit_test(a_rank_above_the_limit_is_refused),
      cmocka_unit_test(zero_sizes_and_scalars_are_legal),
      cmocka_unit_test(offsets_outside_the_data_are_refused),
      cmocka_unit_test(a_hole_in_the_data_is_refused),
      cmocka_unit_test(overlapping_tensors_are_refused),
      cmocka_unit_test(bytes_behind_the_last_tensor_are_refused),
      cmocka_unit_test(entries_may_stand_in_another_order_than_their_data),
      cmocka_unit_test(a_bool_byte_other_than_0_and_1_is_refused),
      cmocka_unit_test(unaligned_data_is_copied_and_aligned_data_borrowed),
      cmocka_unit_test(what_is_written_reads_back_equal),
      cmocka_unit_test(equal_bundles_are_written_as_equal_bytes),
      cmocka_unit_test(the_header_is_padded_to_eight_bytes),
      cmocka_unit_test(names_and_metadata_that_are_not_utf8_are_not_written),
      cmocka_unit_test(a_failed_write_leaves_what_was_there),
      cmocka_unit_test(what_is_no_readable_file_is_refused_with_its_path),
      cmocka_unit_test(a_plain_file_is_mapped_read_only),
      cmocka_unit_test(a_gzip_bomb_is_refused_at_the_cap),
      cmocka_unit_test(damaged_cut_and_trailed_gzip_data_are_refused),
      cmocka_unit_test(gzip_members_are_joined),
      cmocka_unit_test(every_changed_byte_and_every_cut_is_read_or_refused),
      cmocka_unit_test(many_tensors_are_found_by_name),
      cmocka_unit_test(messages_are_one_line_and_fit),
  };
  return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}

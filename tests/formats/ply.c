/** The PLY reader takes ascii and both binary encodings, every property type, lists and other elements; all else is refused with its place. */
#include "support.h"

#include <fcntl.h>
#include <math.h>

#include "mr3d/ply.h"

/* ---- files made byte by byte ---- */

static unsigned char body[1 << 16];
static size_t size;

static void begin(const char *header) {
  size = strlen(header);
  memcpy(body, header, size);
}

/* Appends `bytes` bytes of a number, least or most significant first. */
static void put(uint64_t bits, int bytes, bool big_endian) {
  for (int i = 0; i < bytes; i++)
    body[size++] = (unsigned char)(bits >> 8 * (big_endian ? bytes - 1 - i : i));
}

static void put_float(float value, bool big_endian) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  put(bits, 4, big_endian);
}

static void put_double(double value, bool big_endian) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  put(bits, 8, big_endian);
}

static mr3d_status open_bytes(mr3d_bundle **bundle, mr3d_error *error) {
  char path[256];
  write_bytes(temporary(path, "case.ply"), body, size);
  const mr3d_status status = mr3d_ply_open(path, bundle, error);
  if (status != MR3D_OK) /* every message starts with the path */
    assert_ptr_equal(strstr(error->message, path), error->message);
  unlink(path);
  return status;
}

static void refuse_file(const char *words) {
  mr3d_error error;
  mr3d_bundle *const untouched = (mr3d_bundle *)(void *)&error, *bundle = untouched;
  assert_refused(open_bytes(&bundle, &error), MR3D_FORMAT, error, words);
  assert_ptr_equal(bundle, untouched);
}

static void refuse(const char *text, const char *words) {
  begin(text);
  refuse_file(words);
}

static void assert_points(int rows, int columns, const double *expected) {
  mr3d_error error;
  mr3d_bundle *bundle = NULL;
  assert_done(open_bytes(&bundle, &error), error);
  assert_int_equal(mr3d_bundle_count(bundle), 1);
  const mr3d_tensor *points = mr3d_bundle_find(bundle, "points");
  assert_non_null(points);
  assert_true(points->dtype == MR3D_F64 && points->rank == 2 && points->shape[0] == rows && points->shape[1] == columns);
  for (int i = 0; i < rows * columns; i++) {
    const double got = ((double *)points->data)[i];
    if (!(got == expected[i] || (isnan(got) && isnan(expected[i]))))
      fail_msg("points[%d][%d] is %.17g, expected %.17g", i / columns, i % columns, got, expected[i]);
  }
  mr3d_bundle_free(&bundle);
}
#define POINTS(rows, columns, ...) assert_points(rows, columns, (const double[]){__VA_ARGS__})

#define XYZ "property float x\nproperty float y\nproperty float z\n"
#define RGB "property uchar red\nproperty uchar green\nproperty uchar blue\n"
#define ASCII "ply\nformat ascii 1.0\n"
#define LITTLE "ply\nformat binary_little_endian 1.0\n"
#define BIG "ply\nformat binary_big_endian 1.0\n"

/* ---- what is read ---- */

static void ascii_points_are_read(void **state) {
  (void)state;
  begin(ASCII "element vertex 3\n" XYZ "end_header\n1 -2.5 3e2\n  .5\t+7 -0  \n1e-3 0 123456789\n");
  POINTS(3, 3, 1, -2.5, 300, 0.5, 7, 0, (float)1e-3, 0, 123456792); /* rounded once to the declared float */
  begin(ASCII "element vertex 1\nproperty double x\nproperty float64 y\nproperty int z\nend_header\n0.1 123456789.125 -5"); /* no last line end */
  POINTS(1, 3, 0.1, 123456789.125, -5);
}

static void crlf_line_ends_are_read(void **state) {
  (void)state;
  begin("ply\r\nformat ascii 1.0\r\ncomment x\r\nelement vertex 2\r\nproperty float x\r\nproperty float y\r\nproperty float z\r\nend_header\r\n1 2 3\r\n4 5 6\r\n");
  POINTS(2, 3, 1, 2, 3, 4, 5, 6);
  begin("ply\r\nformat binary_little_endian 1.0\r\nelement vertex 1\r\nproperty uchar x\r\nproperty uchar y\r\nproperty uchar z\r\nend_header\r\n");
  put(0x0D0A0D, 3, true); /* bytes that look like line ends are data */
  POINTS(1, 3, 13, 10, 13);
}

static void every_type_and_alias_is_read_in_both_byte_orders(void **state) {
  (void)state;
  static const struct {
    const char *name, *alias;
    int bytes;
    uint64_t bits[3];
    double values[3];
  } types[] = {
      {"char", "int8", 1, {0x80, 0xFF, 0x7F}, {-128, -1, 127}},
      {"uchar", "uint8", 1, {0x80, 0xFF, 0}, {128, 255, 0}},
      {"short", "int16", 2, {0x8000, 0xFFFE, 0x0102}, {-32768, -2, 258}},
      {"ushort", "uint16", 2, {0x8000, 0xFFFE, 0x0102}, {32768, 65534, 258}},
      {"int", "int32", 4, {0x80000000, 0xFFFFFFFF, 0x01020304}, {-2147483648.0, -1, 16909060}},
      {"uint", "uint32", 4, {0x80000000, 0xFFFFFFFF, 0x01020304}, {2147483648.0, 4294967295.0, 16909060}},
      {"float", "float32", 4, {0x3F800000, 0xC0490FDB, 0x00000001}, {1, -0x1.921fb6p1, 0x1p-149}},
      {"double", "float64", 8, {0x3FF0000000000000, 0xC00921FB54442D18, 1}, {1, -0x1.921fb54442d18p1, 0x1p-1074}},
  };
  for (size_t t = 0; t < sizeof types / sizeof *types; t++)
    for (int big = 0; big < 2; big++)
      for (int alias = 0; alias < 2; alias++) {
        const char *const name = alias ? types[t].alias : types[t].name;
        char header[400];
        snprintf(header, sizeof header, "%selement vertex 1\nproperty %s x\nproperty %s y\nproperty %s z\nend_header\n", big ? BIG : LITTLE, name, name, name);
        begin(header);
        for (int i = 0; i < 3; i++)
          put(types[t].bits[i], types[t].bytes, big);
        assert_points(1, 3, types[t].values);
      }
}

static void colours_are_read_where_all_three_are_there(void **state) {
  (void)state;
  begin(ASCII "element vertex 1\n" XYZ RGB "end_header\n1 2 3 0 128 255\n");
  POINTS(1, 6, 1, 2, 3, 0, 128, 255);
  begin(ASCII "element vertex 1\nproperty float blue\nproperty ushort red\nproperty float z\nproperty double green\nproperty float y\nproperty float x\nend_header\n1.5 2 3 4.5 5 6\n");
  POINTS(1, 6, 6, 5, 3, 2, 4.5, 1.5); /* any order, any type */
  begin(ASCII "element vertex 1\n" XYZ "property uchar red\nproperty uchar blue\nend_header\n1 2 3 4 5\n");
  POINTS(1, 3, 1, 2, 3);
}

static void colours_as_shares_of_1_are_refused(void **state) {
  (void)state;
#define FLOATS "property float red\nproperty float green\nproperty double blue\n"
  refuse(ASCII "element vertex 2\n" XYZ FLOATS "end_header\n1 2 3 0 0.5 1\n1 2 3 1 1 0\n", "element vertex: no colour exceeds 1, as if they were shares of 1; expected 0 .. 255, so multiply red, green and blue by 255");
  begin(ASCII "element vertex 2\n" XYZ FLOATS "end_header\n1 2 3 0 0.5 1\n1 2 3 1 1.5 0\n"); /* one that exceeds 1 */
  POINTS(2, 6, 1, 2, 3, 0, 0.5, 1, 1, 2, 3, 1, 1.5, 0);
  begin(ASCII "element vertex 1\n" XYZ FLOATS "end_header\n1 2 3 0 0 1\n"); /* whole numbers */
  POINTS(1, 6, 1, 2, 3, 0, 0, 1);
}

static void other_properties_lists_and_elements_are_skipped(void **state) {
  (void)state;
  const char *const elements = "obj_info made by hand\ncomment  element vertex 99\nelement camera 2\nproperty list uchar int poses\nproperty double f\n"
                               "element vertex 2\nproperty uchar quality\nproperty float x\nproperty list ushort float near\nproperty float y\nproperty float z\n"
                               "element face 2\nproperty list uchar int vertex_indices\nelement nothing 0\nend_header\n";
  char text[2000];
  snprintf(text, sizeof text, ASCII "%s2 7 8 0.5\n0 1.5\n9 1 3 .1 .2 .3 2 3\n9 4 0 5 6\n3 0 1 2\n0\n", elements);
  begin(text);
  POINTS(2, 3, 1, 2, 3, 4, 5, 6);
  for (int big = 0; big < 2; big++) {
    snprintf(text, sizeof text, "%s%s", big ? BIG : LITTLE, elements);
    begin(text);
    put(2, 1, big), put(7, 4, big), put(8, 4, big), put_double(0.5, big);
    put(0, 1, big), put_double(1.5, big);
    put(9, 1, big), put_float(1, big), put(3, 2, big);
    for (int i = 0; i < 3; i++)
      put_float(0.25f, big);
    put_float(2, big), put_float(3, big);
    put(9, 1, big), put_float(4, big), put(0, 2, big), put_float(5, big), put_float(6, big);
    put(3, 1, big), put(0, 4, big), put(1, 4, big), put(2, 4, big);
    put(0, 1, big);
    POINTS(2, 3, 1, 2, 3, 4, 5, 6);
  }
}

static void non_finite_coordinates_are_data(void **state) {
  (void)state;
  begin(ASCII "element vertex 2\n" XYZ "end_header\nnan -inf 1\n-NaN Infinity +inf\n");
  POINTS(2, 3, (double)NAN, -INFINITY, 1, (double)NAN, INFINITY, INFINITY);
  begin(LITTLE "element vertex 1\n" XYZ "end_header\n");
  put_float(NAN, false), put_float(INFINITY, false), put_float(-INFINITY, false);
  POINTS(1, 3, (double)NAN, INFINITY, -INFINITY);
}

static void no_vertices_make_an_empty_tensor(void **state) {
  (void)state;
  begin(ASCII "element vertex 0\n" XYZ "end_header\n");
  assert_points(0, 3, NULL);
  begin(BIG "element vertex 0\n" XYZ RGB "end_header\n");
  assert_points(0, 6, NULL);
}

/* ---- malformed headers ---- */

static void what_is_no_ply_file_is_refused(void **state) {
  (void)state;
  mr3d_error error;
  mr3d_bundle *bundle;
  refuse("", "line 1: the file ends inside the header");
  refuse("solid x\n", "line 1: expected \"ply\"");
  refuse("ply", "ends inside the header");
  refuse("PLY\n", "expected \"ply\", with which every PLY file begins");
  refuse("ply\rformat ascii 1.0\r", "line 1: a carriage return ends no line by itself; expected LF or CR LF");
  refuse("ply \n", "expected \"ply\"");
  begin("ply\n");
  put(0, 1, false);
  refuse_file("line 2: a NUL byte in the header");
  begin("");
  put(0x8B1F, 2, false), put(0, 4, false); /* gzip */
  refuse_file("line 1: a NUL byte in the header: this is no PLY file");
  begin("");
  memset(body, 'x', size = 5000);
  refuse_file("line 1: longer than 4095 bytes");
  assert_refused(mr3d_ply_open("/nowhere/at/all.ply", &bundle, &error), MR3D_IO, error, "/nowhere/at/all.ply: cannot open it");
  assert_refused(mr3d_ply_open("/", &bundle, &error), MR3D_IO, error, "a folder");
}

static void a_bad_format_line_is_refused(void **state) {
  (void)state;
  refuse("ply\nformat ascii 2.0\n", "line 2: expected \"format ascii|binary_little_endian|binary_big_endian 1.0\"");
  refuse("ply\nformat binary 1.0\n", "line 2: expected \"format");
  refuse("ply\nformat ascii\n", "line 2: expected \"format");
  refuse("ply\nformat ascii 1.0 x\n", "line 2: expected \"format");
  refuse(ASCII "format ascii 1.0\n", "line 3: a second format line");
  refuse("ply\nelement vertex 1\n" XYZ "end_header\n1 2 3\n", "line 6: the header ends without a format line");
}

static void a_bad_element_line_is_refused(void **state) {
  (void)state;
  refuse(ASCII "element vertex\n", "line 3: expected \"element NAME COUNT\"");
  refuse(ASCII "element vertex -1\n", "expected \"element NAME COUNT\"");
  refuse(ASCII "element vertex 1.0\n", "expected \"element NAME COUNT\"");
  refuse(ASCII "element vertex 0x10\n", "expected \"element NAME COUNT\"");
  refuse(ASCII "element vertex 1 2\n", "expected \"element NAME COUNT\"");
  refuse(ASCII "element vertex 99999999999999999999\n", "larger than any file");
  refuse(ASCII "element a 0\nelement a 0\n", "line 4: a second element a");
  refuse(ASCII "element vertex 2\nend_header\n", "element vertex has 2 rows and no properties");
  refuse(ASCII "element a 3\nelement vertex 0\n" XYZ "end_header\n", "element a has 3 rows and no properties");
}

static void a_bad_property_line_is_refused(void **state) {
  (void)state;
  refuse(ASCII "property float x\n", "line 3: a property before the first element");
  refuse(ASCII "element vertex 1\nproperty float\n", "line 4: expected \"property TYPE NAME\"");
  refuse(ASCII "element vertex 1\nproperty float x y\n", "expected \"property TYPE NAME\"");
  refuse(ASCII "element vertex 1\nproperty list uchar int\n", "property list COUNT_TYPE TYPE NAME");
  refuse(ASCII "element vertex 1\nproperty list uchar int a b\n", "property list COUNT_TYPE TYPE NAME");
  refuse(ASCII "element vertex 1\nproperty real x\n", "unknown property type \"real\"; types are char");
  refuse(ASCII "element vertex 1\nproperty int64 x\n", "unknown property type \"int64\"");
  refuse(ASCII "element vertex 1\nproperty list float int a\n", "\"float\" cannot count a list");
  refuse(ASCII "element vertex 1\nproperty list real int a\n", "\"real\" cannot count a list");
  refuse(ASCII "element vertex 1\nproperty float x\nproperty double x\n", "line 5: a second vertex property x");
  refuse(ASCII "element vertex 1\nproperty list uchar float x\n", "vertex property x is a list");
}

static void an_unknown_or_missing_header_line_is_refused(void **state) {
  (void)state;
  refuse(ASCII "elements vertex 1\n", "line 3: \"elements\"; expected format, comment");
  refuse(ASCII "\n", "line 3: \"\"; expected format");
  refuse(ASCII "end_header now\n", "line 3: \"end_header\"");
  refuse(ASCII "element vertex 1\n" XYZ, "the file ends inside the header (no end_header)");
}

static void a_missing_coordinate_is_named(void **state) {
  (void)state;
  refuse(ASCII "element vertex 1\nproperty float x\nproperty float z\nend_header\n1 2\n", "element vertex has no property y");
  refuse(ASCII "element vertex 1\nproperty float X\nproperty float y\nproperty float z\nend_header\n1 2 3\n", "element vertex has no property x");
  refuse(ASCII "element face 1\n" XYZ "end_header\n1 2 3\n", "no element vertex");
}

/* ---- malformed bodies ---- */

static void a_short_body_is_refused(void **state) {
  (void)state;
  refuse(ASCII "element vertex 2\n" XYZ "end_header\n1 2 3\n", "the file is cut short: 2 rows of element vertex");
  refuse(ASCII "element vertex 2\n" XYZ "end_header\n1.25 2.25 3.25\n", "element vertex, row 1: line 9: the file ends where a float should stand");
  refuse(ASCII "element vertex 1\n" XYZ "end_header\n1.25 2.25", "row 0: line 8: the file ends where a float");
  refuse(ASCII "element vertex 2\n" XYZ "end_header\n1.25 2.25\n3 1 2 3\n", "row 0: line 8: the line ends where a float should stand");
  refuse(ASCII "element vertex 2\n" XYZ "end_header\n1.25 2.25 3\n\n1 2 3\n", "row 1: line 9: the line ends");
  begin(LITTLE "element vertex 2\n" XYZ "end_header\n");
  for (int i = 0; i < 5; i++)
    put_float(1, false);
  refuse_file("the file is cut short: 2 rows of element vertex need at least 12 bytes each, 20 bytes follow");
  begin(LITTLE "element vertex 1\n" XYZ "property list uchar int near\nend_header\n");
  for (int i = 0; i < 3; i++)
    put_float(1, false);
  put(2, 1, false), put(0, 4, false), put(0, 3, false);
  refuse_file("ends inside a int");
}

static void an_absurd_count_is_refused_before_memory_is_asked_for(void **state) {
  (void)state;
  refuse(ASCII "element vertex 9223372036854775807\n" XYZ "end_header\n1 2 3\n", "the file is cut short: 9223372036854775807 rows");
  refuse(BIG "element vertex 1537228672809129302\n" XYZ "end_header\n0123456789ab", "cut short"); /* 12 · count = 8 modulo 2^64 */
  refuse(BIG "element face 4611686018427387904\nproperty list uint double a\nelement vertex 0\n" XYZ "end_header\n", "4611686018427387904 rows of element face");
  begin(LITTLE "element face 1\nproperty list uint double a\nelement vertex 0\n" XYZ "end_header\n");
  put(0xFFFFFFFF, 4, false);
  refuse_file("a list of 4294967295 items, but only 0 bytes follow");
  begin(LITTLE "element face 1\nproperty list char double a\nelement vertex 0\n" XYZ "end_header\n");
  put(0xFE, 1, false);
  refuse_file("a list of -2 items");
}

static void bytes_behind_the_body_are_refused(void **state) {
  (void)state;
  refuse(ASCII "element vertex 1\n" XYZ "end_header\n1 2 3\n4 5 6\n", "line 9: 6 bytes follow the last element");
  refuse(ASCII "element vertex 1\n" XYZ "end_header\n1 2 3 4\n", "line 8: more values than the 3 properties of vertex");
  begin(LITTLE "element vertex 1\nproperty uchar x\nproperty uchar y\nproperty uchar z\nend_header\n");
  put(0x03020100, 4, false);
  refuse_file("1 bytes follow the last element");
  begin(ASCII "element vertex 1\n" XYZ "end_header\n1 2 3\n \r\n\n"); /* blank lines at the end do no harm */
  POINTS(1, 3, 1, 2, 3);
}

static void ascii_that_is_no_number_is_refused(void **state) {
  (void)state;
  static const char *const bad[] = {"a", "1,5", "1.5.2", "0x10", "1e", "--1", "nano", "1_000", "e5", "nan(1)", "1f", "1d0", ".", "+"};
  char text[400];
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    snprintf(text, sizeof text, ASCII "element vertex 1\n" XYZ "end_header\n1 %s 3\n", bad[i]);
    refuse(text, "is not a number");
  }
  refuse(ASCII "element vertex 1\n" XYZ RGB "end_header\n1 2 3 0 1.5 2\n", "row 0: line 11: \"1.5\" is not a whole number");
  refuse(ASCII "element vertex 1\n" XYZ RGB "end_header\n1 2 3 0 nan 2\n", "\"nan\" is not a whole number");
  refuse(ASCII "element vertex 1\n" XYZ "end_header\n1 2 1e999\n", "1e999 is beyond what a float holds");
  refuse(ASCII "element vertex 1\n" XYZ RGB "end_header\n1 2 3 0 256 2\n", "256 does not fit in a uchar");
  refuse(ASCII "element vertex 1\n" XYZ RGB "end_header\n1 2 3 0 -1 2\n", "-1 does not fit in a uchar");
  refuse(ASCII "element vertex 1\nproperty int x\nproperty int y\nproperty int z\nend_header\n1 2147483648 3\n", "does not fit in a int");
  refuse(ASCII "element vertex 1\nproperty int x\nproperty int y\nproperty int z\nend_header\n1 99999999999999999999 3\n", "does not fit in a int");
  begin(ASCII "element vertex 1\n" XYZ "end_header\n1 2 ");
  put('3', 1, false), put(0, 1, false), put('\n', 1, false); /* a NUL inside a number */
  refuse_file("is not a number");
  begin(ASCII "element vertex 1\n" XYZ "end_header\n1 2 ");
  memset(body + size, '1', 300);
  size += 300;
  refuse_file("is not a number");
}

/* ---- writing ---- */

static void what_is_written_reads_back_equal(void **state) {
  (void)state;
  mr3d_error error;
  char path[256];
  temporary(path, "saved.ply");
  for (int columns = 3; columns <= 6; columns += 3) {
    mr3d_bundle *bundle = mr3d_bundle_new(), *read = NULL;
    mr3d_tensor *points = mr3d_bundle_add(bundle, "points", MR3D_F64, 2, (int64_t[]){5, columns});
    for (int i = 0; i < 5 * columns; i++)
      ((double *)points->data)[i] = i % columns < 3 ? i * 0.125 - 1 : 51 * (i / columns);
    ((double *)points->data)[columns + 1] = -INFINITY;
    assert_done(mr3d_ply_save(path, points, columns == 6 ? "a comment" : NULL, &error), error);
    assert_done(mr3d_ply_open(path, &read, &error), error);
    assert_memory_equal(mr3d_bundle_find(read, "points")->data, points->data, (size_t)(5 * columns) * sizeof(double));
    mr3d_bundle_free(&read);
    mr3d_bundle_free(&bundle);
  }
  unlink(path);
}

static void values_that_the_file_cannot_hold_are_not_written(void **state) {
  (void)state;
  mr3d_error error;
  char path[256];
  temporary(path, "unsaved.ply");
  mr3d_bundle *bundle = mr3d_bundle_new();
  mr3d_tensor *points = mr3d_bundle_add(bundle, "points", MR3D_F64, 2, (int64_t[]){2, 6});
  double *values = points->data;
  values[7] = 0.1;
  assert_refused(mr3d_ply_save(path, points, NULL, &error), MR3D_INVALID, error, "row 1: 0.1");
  values[7] = 0;
  values[9] = 256;
  assert_refused(mr3d_ply_save(path, points, NULL, &error), MR3D_INVALID, error, "colour 256");
  values[9] = (double)NAN;
  assert_refused(mr3d_ply_save(path, points, NULL, &error), MR3D_INVALID, error, "colour nan");
  values[9] = 0;
  assert_refused(mr3d_ply_save(path, points, "two\nlines", &error), MR3D_INVALID, error, "a comment is one line");
  points = mr3d_bundle_add(bundle, "flat", MR3D_F64, 1, (int64_t[]){6});
  assert_refused(mr3d_ply_save(path, points, NULL, &error), MR3D_INVALID, error, "shape [6]; expected [N,3] or [N,6]");
  assert_int_not_equal(access(path, F_OK), 0);
  mr3d_bundle_free(&bundle);
}

/* ---- whatever the bytes, no crash ---- */

/* The file is changed in place: thousands of new ones take some disks half a minute. */
static void survive(int file, const char *path, size_t length) {
  mr3d_error error = {0};
  mr3d_bundle *bundle = NULL;
  assert_int_equal(pwrite(file, body, length, 0), length);
  assert_int_equal(ftruncate(file, (off_t)length), 0);
  if (mr3d_ply_open(path, &bundle, &error) == MR3D_OK)
    mr3d_bundle_free(&bundle);
  else
    assert_true(bundle == NULL && error.status == MR3D_FORMAT && strlen(error.message) > 10);
}

static void every_changed_byte_and_every_cut_is_read_or_refused(void **state) {
  (void)state;
  static const char *const headers[] = {ASCII, LITTLE, BIG};
  static const unsigned char changes[] = {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF, 0x2A};
  char path[256];
  const int file = open(temporary(path, "flip.ply"), O_RDWR | O_CREAT, 0600);
  assert_true(file >= 0);
  for (int encoding = 0; encoding < 3; encoding++) {
    char text[400];
    snprintf(text, sizeof text, "%selement face 1\nproperty list uchar short i\nelement vertex 2\n" XYZ "property uchar red\nend_header\n", headers[encoding]);
    begin(text);
    if (encoding == 0) {
      const char *const rows = "2 7 -8\n1 2.5 nan 4\n-1e3 0 .5 255\n";
      memcpy(body + size, rows, strlen(rows));
      size += strlen(rows);
    } else {
      put(2, 1, encoding == 2), put(7, 2, encoding == 2), put(8, 2, encoding == 2);
      for (int i = 0; i < 2; i++)
        put_float(1, encoding == 2), put_float(NAN, encoding == 2), put_float(-2, encoding == 2), put(9, 1, encoding == 2);
    }
    mr3d_error error;
    mr3d_bundle *bundle = NULL;
    assert_done(open_bytes(&bundle, &error), error); /* sound before it is damaged */
    mr3d_bundle_free(&bundle);
    for (size_t length = 0; length < size; length++)
      survive(file, path, length);
    for (size_t i = 0; i < size; i++)
      for (size_t c = 0; c < sizeof changes; c++) {
        body[i] ^= changes[c];
        survive(file, path, size);
        body[i] ^= changes[c];
      }
  }
  close(file);
  unlink(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(ascii_points_are_read),
      cmocka_unit_test(crlf_line_ends_are_read),
      cmocka_unit_test(every_type_and_alias_is_read_in_both_byte_orders),
      cmocka_unit_test(colours_are_read_where_all_three_are_there),
      cmocka_unit_test(colours_as_shares_of_1_are_refused),
      cmocka_unit_test(other_properties_lists_and_elements_are_skipped),
      cmocka_unit_test(non_finite_coordinates_are_data),
      cmocka_unit_test(no_vertices_make_an_empty_tensor),
      cmocka_unit_test(what_is_no_ply_file_is_refused),
      cmocka_unit_test(a_bad_format_line_is_refused),
      cmocka_unit_test(a_bad_element_line_is_refused),
      cmocka_unit_test(a_bad_property_line_is_refused),
      cmocka_unit_test(an_unknown_or_missing_header_line_is_refused),
      cmocka_unit_test(a_missing_coordinate_is_named),
      cmocka_unit_test(a_short_body_is_refused),
      cmocka_unit_test(an_absurd_count_is_refused_before_memory_is_asked_for),
      cmocka_unit_test(bytes_behind_the_body_are_refused),
      cmocka_unit_test(ascii_that_is_no_number_is_refused),
      cmocka_unit_test(what_is_written_reads_back_equal),
      cmocka_unit_test(values_that_the_file_cannot_hold_are_not_written),
      cmocka_unit_test(every_changed_byte_and_every_cut_is_read_or_refused),
  };
  return cmocka_run_group_tests_name("PLY", tests, NULL, NULL);
}

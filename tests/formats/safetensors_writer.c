/** A file written tensor by tensor reads back equal, whatever the sizes and however long its header, and a failure leaves what was there. */
#include "support.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "mr3d/safetensors.h"

static char folder[64];

static const char *in_folder(const char *name) {
  static char path[128];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

/* A tensor of values that its number gives. */
static mr3d_tensor *made(mr3d_bundle *from, int number, mr3d_dtype dtype, int64_t count) {
  char name[64];
  snprintf(name, sizeof name, "0.%d.a_point_with_a_long_name", number);
  mr3d_tensor *t = mr3d_bundle_add(from, name, dtype, 2, (int64_t[]){1, count});
  for (int64_t i = 0; i < count * (int64_t)mr3d_dtype_size(dtype); i++) ((unsigned char *)t->data)[i] = (unsigned char)(dtype == MR3D_BOOL ? (number + i) % 2 : number * 7 + i * 3);
  return t;
}

static void reads_back(const char *path, const mr3d_bundle *expected, int n_meta) {
  mr3d_bundle *read = NULL;
  mr3d_error error;
  assert_done(mr3d_safetensors_open(path, 0, &read, &error), error);
  assert_int_equal(mr3d_bundle_count(read), mr3d_bundle_count(expected));
  assert_int_equal(mr3d_bundle_meta_count(read), n_meta);
  for (int i = 0; i < mr3d_bundle_count(expected); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(expected, i), *u = mr3d_bundle_find(read, t->name);
    assert_non_null(u);
    assert_int_equal(u->dtype, t->dtype);
    assert_int_equal(u->shape[1], t->shape[1]);
    assert_memory_equal(u->data, t->data, (size_t)mr3d_tensor_count(t) * mr3d_dtype_size(t->dtype));
  }
  mr3d_bundle_free(&read);
  /* In the file itself every tensor is aligned to its elements. */
  FILE *file = fopen(path, "rb");
  uint64_t length;
  assert_int_equal(fread(&length, 8, 1, file), 1);
  fclose(file);
  assert_int_equal(length % 8, 0);
}

static void write_and_compare(int count, const int64_t *sizes, int n_sizes, const mr3d_dtype *dtypes, int n_dtypes) {
  mr3d_bundle *all = mr3d_bundle_new();
  mr3d_safetensors_writer *writer = NULL;
  mr3d_error error = {0};
  assert_done(mr3d_safetensors_writer_open(in_folder("t.safetensors"), &writer, &error), error);
  mr3d_safetensors_writer_set(writer, "trace", "2");
  mr3d_safetensors_writer_set(writer, "trace", "1");
  int64_t bytes = 0;
  for (int i = 0; i < count; i++) {
    const mr3d_tensor *t = made(all, i, dtypes[i % n_dtypes], sizes[i % n_sizes]);
    assert_false(mr3d_safetensors_writer_has(writer, t->name));
    mr3d_safetensors_writer_add(writer, NULL, t);
    assert_true(mr3d_safetensors_writer_has(writer, t->name));
    bytes += mr3d_tensor_count(t) * (int64_t)mr3d_dtype_size(t->dtype);
  }
  assert_int_equal(mr3d_safetensors_writer_bytes(writer), bytes);
  assert_done(mr3d_safetensors_writer_close(&writer, true, &error), error);
  assert_null(writer);
  reads_back(in_folder("t.safetensors"), all, 1);
  mr3d_bundle_free(&all);
}

static void what_is_written_piece_by_piece_reads_back_equal(void **state) {
  (void)state;
  const mr3d_dtype all[] = {MR3D_F32, MR3D_BOOL, MR3D_BF16, MR3D_F64, MR3D_I64};
  write_and_compare(40, (int64_t[]){5, 0, 1, 64, 31, 8, 3}, 7, all, 5); /* odd sizes, which wait, among even ones */
  write_and_compare(1, (int64_t[]){3}, 1, all + 1, 1);
  write_and_compare(0, (int64_t[]){3}, 1, all, 1);
}

/* Above the room that is left for a header, the data is moved, over itself and in more than one block. */
static void a_header_longer_than_its_room_moves_the_data(void **state) {
  (void)state;
  const mr3d_dtype all[] = {MR3D_F32, MR3D_F64, MR3D_BOOL};
  write_and_compare(12000, (int64_t[]){2, 100, 7}, 3, all, 3);
}

static int files_in_folder(void) {
  int count = 0;
  DIR *dir = opendir(folder);
  for (struct dirent *entry; (entry = readdir(dir));) count += entry->d_name[0] != '.';
  closedir(dir);
  return count;
}

static void a_failure_leaves_what_was_there(void **state) {
  (void)state;
  mr3d_error error = {0};
  mr3d_bundle *kept = mr3d_bundle_new(), *large = mr3d_bundle_new();
  made(kept, 1, MR3D_F32, 9);
  assert_done(mr3d_safetensors_save(in_folder("kept.safetensors"), kept, &error), error);
  const int files = files_in_folder();
  mr3d_safetensors_writer *writer = NULL;
  assert_done(mr3d_safetensors_writer_open(in_folder("kept.safetensors"), &writer, &error), error);
  mr3d_safetensors_writer_add(writer, NULL, made(large, 2, MR3D_F64, 64));
  assert_done(mr3d_safetensors_writer_close(&writer, false, &error), error); /* thrown away */
  assert_int_equal(files_in_folder(), files);
  reads_back(in_folder("kept.safetensors"), kept, 0);

  struct rlimit before, small = {2 << 20, 2 << 20}; /* a disk without room */
  getrlimit(RLIMIT_FSIZE, &before);
  small.rlim_max = before.rlim_max;
  signal(SIGXFSZ, SIG_IGN);
  assert_done(mr3d_safetensors_writer_open(in_folder("kept.safetensors"), &writer, &error), error);
  setrlimit(RLIMIT_FSIZE, &small);
  mr3d_safetensors_writer_add(writer, NULL, made(large, 3, MR3D_F64, 1 << 19));
  mr3d_safetensors_writer_add(writer, NULL, made(large, 4, MR3D_F64, 8)); /* goes on, and the failure is not forgotten */
  assert_refused(mr3d_safetensors_writer_close(&writer, true, &error), MR3D_IO, error, "kept.safetensors: cannot write it: File too large");
  setrlimit(RLIMIT_FSIZE, &before);
  assert_int_equal(files_in_folder(), files);
  reads_back(in_folder("kept.safetensors"), kept, 0);
  mr3d_bundle_free(&kept), mr3d_bundle_free(&large);
}

static void places_that_take_no_pieces_are_refused(void **state) {
  (void)state;
  mr3d_safetensors_writer *writer = NULL;
  mr3d_error error = {0};
  assert_refused(mr3d_safetensors_writer_open("/dev/null", &writer, &error), MR3D_IO, error, "a device or pipe");
  assert_refused(mr3d_safetensors_writer_open(folder, &writer, &error), MR3D_IO, error, "a folder");
  assert_refused(mr3d_safetensors_writer_open(in_folder("t.safetensors.gz"), &writer, &error), MR3D_INVALID, error, "without .gz");
  assert_refused(mr3d_safetensors_writer_open(in_folder("none/t.safetensors"), &writer, &error), MR3D_IO, error, "No such file");
  assert_null(writer);
  assert_done(mr3d_safetensors_writer_close(&writer, true, &error), error);
}

static int make_folder(void **state) {
  (void)state;
  strcpy(folder, "/tmp/mr3d-writer-XXXXXX");
  return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
  (void)state;
  char command[100];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  return system(command);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(what_is_written_piece_by_piece_reads_back_equal),
      cmocka_unit_test(a_header_longer_than_its_room_moves_the_data),
      cmocka_unit_test(a_failure_leaves_what_was_there),
      cmocka_unit_test(places_that_take_no_pieces_are_refused),
  };
  return cmocka_run_group_tests_name("safetensors_writer", tests, make_folder, remove_folder);
}

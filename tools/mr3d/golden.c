/** mr3d golden: verify, list, diff the golden set; measure its rules. */
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "file.h"
#include "golden.h"
#include "mr3d/safetensors.h"
#include "rules.h"

static void print_problem(void *user, const char *line) {
  ++*(int *)user;
  printf("%s\n", line);
}

static int verify(const char *golden_dir) {
  mr3d_error error = {0};
  int n = 0, problems = 0;
  mr3d_status status = mr3d_golden_verify(golden_dir, print_problem, &problems, &n, &error);
  fflush(stdout);
  if (problems) return mr3d_complain("the golden set in %s is damaged: %d problem%s", golden_dir, problems, problems == 1 ? "" : "s");
  if (status != MR3D_OK) return mr3d_complain("%s", error.message); /* no manifest to check against */
  printf("%d files, all as manifest.json says\n", n);
  return 0;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/** The file names in FOLDER/set, sorted; owned by the caller. */
static char **file_names(const char *folder, int *count) {
  char path[4200];
  snprintf(path, sizeof path, "%s/set", folder);
  DIR *dir = opendir(path);
  char **names = NULL;
  int n = 0;
  for (struct dirent *entry; dir && (entry = readdir(dir));) {
    if (entry->d_name[0] == '.') continue;
    names = realloc(names, (size_t)(n + 1) * sizeof *names);
    names[n++] = strdup(entry->d_name);
  }
  if (dir) closedir(dir);
  if (n) qsort(names, (size_t)n, sizeof *names, by_name);
  *count = n;
  return names;
}

static void free_names(char **names, int count) {
  for (int i = 0; i < count; i++) free(names[i]);
  free(names);
}

static mr3d_status open_file(const char *folder, const char *name, mr3d_bundle **file, mr3d_error *error) {
  char path[4400];
  snprintf(path, sizeof path, "%s/set/%s", folder, name);
  return mr3d_safetensors_open(path, 0, file, error);
}

static int list_tensors(const char *golden_dir) {
  int count, status = 0;
  char **names = file_names(golden_dir, &count);
  for (int i = 0; i < count; i++) {
    mr3d_error error = {0};
    mr3d_bundle *file = NULL;
    if (open_file(golden_dir, names[i], &file, &error) != MR3D_OK) {
      status = mr3d_complain("%s", error.message);
      continue;
    }
    const char *id = mr3d_bundle_get(file, "case");
    printf("%s  (%s)\n", id ? id : "?", names[i]);
    for (int t = 0; t < mr3d_bundle_count(file); t++) {
      const mr3d_tensor *tensor = mr3d_bundle_at(file, t);
      char shape[96];
      printf("  %-32s %-5s %s\n", tensor->name, mr3d_dtype_name(tensor->dtype), mr3d_shape_text(tensor->rank, tensor->shape, shape));
    }
    mr3d_bundle_free(&file);
  }
  free_names(names, count);
  return count ? status : mr3d_complain("%s/set holds no file", golden_dir);
}

/** Prints how two tensors differ; returns 1 if they do. */
static int diff_tensors(const char *file, const char *name, const mr3d_tensor *a, const mr3d_tensor *b) {
  char shape[2][96];
  if (!a || !b) {
    printf("%s: %s is only in the %s\n", file, name, a ? "first" : "second");
    return 1;
  }
  if (a->dtype != b->dtype || a->rank != b->rank || memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) != 0) {
    printf("%s: %s is %s %s in the first, %s %s in the second\n", file, name, mr3d_dtype_name(a->dtype),
           mr3d_shape_text(a->rank, a->shape, shape[0]), mr3d_dtype_name(b->dtype), mr3d_shape_text(b->rank, b->shape, shape[1]));
    return 1;
  }
  int64_t n = mr3d_tensor_count(a), differ = 0, where = 0;
  if (memcmp(a->data, b->data, (size_t)n * mr3d_dtype_size(a->dtype)) == 0) return 0;
  double *x = mr3d_allocate(n, sizeof *x), *y = mr3d_allocate(n, sizeof *y), largest = -1, scale = 0;
  mr3d_tensor_to_double(a, x);
  mr3d_tensor_to_double(b, y);
  for (int64_t i = 0; i < n; i++) {
    if (memcmp(&x[i], &y[i], sizeof *x) == 0) continue;
    differ++;
    double difference = fabs(x[i] - y[i]);
    if (!(difference <= largest)) largest = difference, where = i;
  }
  for (int64_t i = 0; i < n; i++) scale = fmax(scale, fabs(x[i]));
  printf("%s: %s: %lld of %lld elements differ, most at flat index %lld: %.17g and %.17g, %.3g of the scale\n", file, name,
         (long long)differ, (long long)n, (long long)where, x[where], y[where], scale > 0 ? largest / scale : largest);
  free(x);
  free(y);
  return 1;
}

static int diff_files(const char *golden_dir, const char *other_dir, const char *name) {
  mr3d_error error = {0};
  mr3d_bundle *a = NULL, *b = NULL;
  int differ = 0;
  if (open_file(golden_dir, name, &a, &error) != MR3D_OK || open_file(other_dir, name, &b, &error) != MR3D_OK)
    differ = mr3d_complain("%s", error.message);
  else {
    for (int t = 0; t < mr3d_bundle_count(a); t++)
      differ |= diff_tensors(name, mr3d_bundle_at(a, t)->name, mr3d_bundle_at(a, t), mr3d_bundle_find(b, mr3d_bundle_at(a, t)->name));
    for (int t = 0; t < mr3d_bundle_count(b); t++)
      if (!mr3d_bundle_find(a, mr3d_bundle_at(b, t)->name))
        differ |= diff_tensors(name, mr3d_bundle_at(b, t)->name, NULL, mr3d_bundle_at(b, t));
    for (int m = 0; m < mr3d_bundle_meta_count(a); m++) {
      const char *key, *value, *other;
      mr3d_bundle_meta_at(a, m, &key, &value);
      other = mr3d_bundle_get(b, key);
      if (other && strcmp(other, value) == 0) continue;
      printf("%s: metadata %s is \"%.200s\" in the first, %s%.200s%s in the second\n", name, key, value, other ? "\"" : "",
             other ? other : "absent", other ? "\"" : "");
      differ = 1;
    }
  }
  mr3d_bundle_free(&a);
  mr3d_bundle_free(&b);
  return differ;
}

/** Two sets, file by file: what one lacks, and where tensors differ by how much. */
static int diff(const char *golden_dir, const char *other_dir) {
  int n, m, differ = 0;
  char **first = file_names(golden_dir, &n), **second = file_names(other_dir, &m);
  if (m == 0) differ = mr3d_complain("%s/set holds no file; expected a folder like golden/", other_dir);
  for (int i = 0, j = 0; m && (i < n || j < m);) {
    int order = i == n ? 1 : j == m ? -1 : strcmp(first[i], second[j]);
    if (order == 0) differ |= diff_files(golden_dir, other_dir, first[i]), i++, j++;
    else {
      printf("%s is only in the %s\n", order < 0 ? first[i] : second[j], order < 0 ? "first" : "second");
      differ = 1;
      order < 0 ? i++ : j++;
    }
  }
  if (!differ) printf("%d files, equal in every tensor\n", n);
  free_names(first, n);
  free_names(second, m);
  return differ ? 2 : 0;
}

/* ---- golden/rules.json ---- */

static bool show_measured(void *user, const mr3d_case *test) {
  if (isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K%s", test->id);
  return !*(bool *)user;
}

/** Measures the cases that are new or have changed. With `only_check` nothing is measured: any such is an error. */
static int rules(const char *golden_dir, bool only_check, int64_t threads) {
  char path[4200], *text = NULL;
  mr3d_suite *suite = NULL;
  mr3d_rules *old = NULL;
  mr3d_error error = {0};
  int n = 0;
  mr3d_status status = mr3d_suite_open(golden_dir, NULL, &suite, &error);
  if (status == MR3D_OK && mr3d_rules_open(suite, &old, &error) != MR3D_OK && only_check) status = MR3D_IO;
  if (status == MR3D_OK) status = mr3d_rules_measure(suite, old, (int)(threads > 1024 ? 1024 : threads), show_measured, &only_check, &text, &n, &error);
  if (isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K");
  snprintf(path, sizeof path, "%s/rules.json", golden_dir);
  if (status == MR3D_OK && !only_check) status = mr3d_write_file(path, text, strlen(text), &error);
  if (status == MR3D_OK && !only_check) printf("%s: %d case%s measured anew\n", path, n, n == 1 ? "" : "s");
  free(text);
  mr3d_rules_close(&old);
  mr3d_suite_close(&suite);
  if (status == MR3D_OK) return 0;
  return only_check ? mr3d_complain("%s: mr3d golden rules brings it up to date", error.message) : mr3d_complain("%s", error.message);
}

int mr3d_command_golden(int argc, char **argv) {
  const char *golden = NULL;
  bool only_check = false;
  int64_t threads = 0;
  const mr3d_option table[] = {
      {"--golden", "DIR", MR3D_OPTION_TEXT, &golden, "the golden set (default: MR3D_GOLDEN, else beside the program)"},
      {"--check", NULL, MR3D_OPTION_FLAG, &only_check, "for rules: measure and write nothing; exit status 1 where something is due"},
      {"--threads", "N", MR3D_OPTION_COUNT, &threads, "for rules (default: all processors)"},
      {NULL, NULL, MR3D_OPTION_FLAG, NULL, NULL}};
  const mr3d_usage usage = {
      "mr3d golden verify | list | diff DIR | rules",
      "verify  every file that manifest.json lists is there, bit for bit, and no other; every case has its golden\n"
      "list    the tensors of every file\n"
      "diff    this set (the first) against another folder (the second), a regenerated one for instance; exit status 2 where they differ\n"
      "rules   rules.json brought up to date: which rules judge each case's answers, and which answers could be stored; cases that changed are measured, which takes seconds each\n",
      1, 2, "say what to do with the golden set: verify, list, diff or rules; for instance: mr3d golden verify"};
  int n = 0;
  int status = mr3d_options_parse(&usage, table, argc, argv, &n);
  if (status >= 0) return status;
  mr3d_error error = {0};
  char golden_dir[4096];
  if (mr3d_find_golden(golden, golden_dir, &error) != MR3D_OK) return mr3d_complain("%s", error.message);
  if (strcmp(argv[0], "diff") == 0)
    return n == 2 ? diff(golden_dir, argv[1]) : mr3d_complain("diff needs the other folder: mr3d golden diff DIR");
  if (n == 2) return mr3d_complain("\"%s\" is one argument too many\nUsage: %s", argv[1], usage.line);
  if (strcmp(argv[0], "verify") == 0) return verify(golden_dir);
  if (strcmp(argv[0], "list") == 0) return list_tensors(golden_dir);
  if (strcmp(argv[0], "rules") == 0) return rules(golden_dir, only_check, threads);
  return mr3d_complain("unknown word \"%s\"; expected verify, list, diff or rules", argv[0]);
}

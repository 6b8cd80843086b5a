#include "subject.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "file.h"
#include "process.h"
#include "promises.h"
#include "report_json.h"
#include "text.h"

static bool is_file(const char *path) {
  struct stat file;
  return stat(path, &file) == 0 && S_ISREG(file.st_mode);
}

/** The program of a command: as it is with a stroke in it, else found in PATH. */
static bool find_program(const char *word, char path[4096]) {
  const char *folders = strchr(word, '/') ? NULL : getenv("PATH");
  snprintf(path, 4096, "%s", word);
  if (strchr(word, '/')) return is_file(path);
  for (const char *at = folders; at && *at; at += strspn(at, ":")) {
    const int n = (int)strcspn(at, ":");
    snprintf(path, 4096, "%.*s/%s", n, at, word);
    if (is_file(path) && access(path, X_OK) == 0) return true;
    at += n;
  }
  return false;
}

static mr3d_status add_file(cJSON *files, const char *name, const char *path, mr3d_error *error) {
  char hex[65];
  const cJSON *other;
  mr3d_status status = mr3d_text_digest_file(path, hex, NULL, error);
  if (status != MR3D_OK) return status;
  cJSON_ArrayForEach (other, files)
    if (strcmp(cJSON_GetObjectItemCaseSensitive(other, "name")->valuestring, name) == 0) return MR3D_OK; /* named twice, hashed once */
  cJSON *entry = cJSON_CreateObject();
  mr3d_text_add(entry, "name", name);
  cJSON_AddStringToObject(cJSON_AddObjectToObject(entry, "digest"), "sha256", hex);
  cJSON_AddItemToArray(files, entry);
  return MR3D_OK;
}

static mr3d_status add_command(cJSON *files, const char *command, mr3d_error *error) {
  char **words, path[4096];
  mr3d_status status = mr3d_words_split(command, &words, error);
  if (status != MR3D_OK) return status;
  for (int i = 0; words[i] && status == MR3D_OK; i++)
    if (i == 0 ? find_program(words[i], path) : (snprintf(path, sizeof path, "%s", words[i]), is_file(path))) status = add_file(files, words[i], path, error);
  mr3d_words_free(&words);
  return status;
}

mr3d_status mr3d_subject_files(const char *spec, const char *more, cJSON **out, mr3d_error *error) {
  cJSON *files = cJSON_CreateArray();
  mr3d_status status = MR3D_OK;
  if (strncmp(spec, "lib:", 4) == 0) status = add_file(files, spec + 4, spec + 4, error);
  else if (strncmp(spec, "exec:", 5) == 0) status = add_command(files, spec + 5, error);
  else if (strncmp(spec, "dir:", 4) == 0)
    status = mr3d_fail(error, MR3D_INVALID, "%s: stored answers cannot be certified, for nobody can be asked again; run mr3d certify where the backend runs", spec);
  else status = add_file(files, "mr3d", "/proc/self/exe", error);
  for (const char *at = more; at && *at && status == MR3D_OK; at += strspn(at, ",")) {
    char path[4096];
    snprintf(path, sizeof path, "%.*s", (int)strcspn(at, ","), at);
    status = add_file(files, path, path, error);
    at += strcspn(at, ",");
  }
  if (status == MR3D_OK && !files->child) status = mr3d_fail(error, MR3D_INVALID, "%s: none of its words is a file; name the backend's files with --files", spec);
  if (status == MR3D_OK) *out = files;
  else cJSON_Delete(files);
  return status;
}

const char *mr3d_subject_hashed(const char *spec, const char *more) {
  if (more && *more) return MR3D_HASHED_FILES;
  return strncmp(spec, "exec:", 5) == 0 ? MR3D_HASHED_COMMAND : strncmp(spec, "lib:", 4) == 0 ? MR3D_HASHED_PLUGIN : MR3D_HASHED_SUITE;
}

cJSON *mr3d_subject_backend(const mr3d_run *run, const char *more) {
  cJSON *backend = cJSON_CreateObject();
  mr3d_text_add(backend, "spec", run->options.backend);
  mr3d_text_add(backend, "name", run->info.name);
  mr3d_text_add(backend, "version", run->info.version);
  cJSON *keeps = cJSON_AddArrayToObject(backend, "keeps");
  const mr3d_promise *promise;
  for (int i = 0; (promise = mr3d_promise_at(i)); i++)
    if (run->info.kept >> promise->point & 1) cJSON_AddItemToArray(keeps, cJSON_CreateString(promise->name));
  cJSON_AddStringToObject(backend, "hashed", mr3d_subject_hashed(run->options.backend, more));
  return backend;
}

/* ---- the machine ---- */

static void find_processor(char to[256]) {
  char line[512];
  FILE *file = fopen("/proc/cpuinfo", "r");
  snprintf(to, 256, "unknown");
  while (file && fgets(line, sizeof line, file)) {
    char *value = strchr(line, ':');
    if (!value || (strncmp(line, "model name", 10) != 0 && strncmp(line, "CPU part", 8) != 0)) continue;
    snprintf(to, 256, "%.*s", (int)strcspn(value + 2, "\n"), value + 2);
    break;
  }
  if (file) fclose(file);
  snprintf(to + strlen(to), 256 - strlen(to), ", %ld online", sysconf(_SC_NPROCESSORS_ONLN));
}

/** What the compiler wrote into a plug-in: "GCC: (Debian 12.2.0-14) 12.2.0". */
static void find_compiler(const char *spec, char to[256]) {
  static const char *const marks[] = {"GCC: (", "clang version "};
  void *bytes;
  size_t size;
  snprintf(to, 256, "unknown");
  if (strncmp(spec, "lib:", 4) != 0 || mr3d_map(spec + 4, &bytes, &size, NULL) != MR3D_OK) return;
  for (int m = 0; m < 2; m++) {
    const char *found = memmem(bytes, size, marks[m], strlen(marks[m]));
    const size_t left = found ? size - (size_t)(found - (char *)bytes) : 0;
    if (found) snprintf(to, 256, "%.*s", (int)(strnlen(found, left) < 200 ? strnlen(found, left) : 200), found);
    if (found) break;
  }
  mr3d_unmap(bytes, size);
}

static void find_driver(char to[256]) {
  FILE *file = fopen("/proc/driver/nvidia/version", "r");
  snprintf(to, 256, "none");
  if (!file) return;
  if (fgets(to, 256, file)) to[strcspn(to, "\n")] = '\0';
  fclose(file);
}

cJSON *mr3d_subject_machine(const mr3d_run *run, const char *compiler, const char *driver) {
  char processor[256], found[256], system[512], program[65] = "";
  struct utsname names;
  mr3d_error ignored;
  cJSON *machine = cJSON_CreateObject();
  find_processor(processor);
  uname(&names);
  snprintf(system, sizeof system, "%s %s %s", names.sysname, names.release, names.machine);
  mr3d_text_digest_file("/proc/self/exe", program, NULL, &ignored);
  mr3d_text_add(machine, "processor", processor);
  mr3d_text_add(machine, "system", system);
  if (!compiler) find_compiler(run->options.backend, found);
  mr3d_text_add(machine, "compiler", compiler ? compiler : found);
  if (!driver) find_driver(found);
  mr3d_text_add(machine, "driver", driver ? driver : found);
  cJSON_AddStringToObject(machine, "program", program);
  cJSON *isolation = cJSON_AddObjectToObject(machine, "isolation");
  cJSON_AddBoolToObject(isolation, "asked", !run->options.no_isolation);
  mr3d_json_add_list(isolation, "active", run->info.protections);
  mr3d_json_add_list(isolation, "missing", run->info.missing_protections);
  return machine;
}

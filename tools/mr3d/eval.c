/** mr3d eval: request files answered by the reference, or by any backend (docs/protocol.md, "Files"). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backend.h"
#include "command.h"
#include "mr3d/safetensors.h"
#include "report.h"

static bool is_folder(const char *path) {
  struct stat file;
  return stat(path, &file) == 0 && S_ISDIR(file.st_mode);
}

/** NAME.req.safetensors (or NAME.safetensors, or NAME) gives FOLDER/NAME.ans.safetensors. */
static void answer_path(const char *folder, const char *request, char path[4096]) {
  const char *name = strrchr(request, '/') ? strrchr(request, '/') + 1 : request;
  size_t length = strlen(name);
  static const char *const endings[] = {".gz", ".safetensors", ".req"};
  for (int i = 0; i < 3; i++) {
    size_t ending = strlen(endings[i]);
    if (length > ending && strncmp(name + length - ending, endings[i], ending) == 0) length -= ending;
  }
  snprintf(path, 4096, "%s/%.*s.ans.safetensors", folder, (int)length, name);
}

/** What was answered, as a file: the answer's tensors, or nothing but type and message. */
static mr3d_status save_answer(const char *path, const char *type, const char *message, const char *id, mr3d_bundle *answer,
                               mr3d_error *error) {
  mr3d_bundle *file = answer ? answer : mr3d_bundle_new();
  mr3d_bundle_set(file, "protocol", "1");
  mr3d_bundle_set(file, "type", type);
  if (message) mr3d_bundle_set(file, "message", message);
  if (id) mr3d_bundle_set(file, "id", id);
  mr3d_status status = mr3d_safetensors_save(path, file, error);
  if (!answer) mr3d_bundle_free(&file);
  return status;
}

/** Asks one file's request; returns 0 when it was answered. */
static int answer_file(mr3d_backend *backend, double timeout, const char *request_path, const char *path) {
  mr3d_error error = {0};
  mr3d_bundle *request = NULL;
  mr3d_reply reply = {.kind = MR3D_REPLY_ERROR};
  const char *type = NULL;
  char *id = NULL;
  if (mr3d_safetensors_open(request_path, 0, &request, &error) != MR3D_OK)
    snprintf(reply.message, sizeof reply.message, "%s", error.message);
  else if ((type = mr3d_bundle_get(request, "type")) && strcmp(type, "request") != 0)
    snprintf(reply.message, sizeof reply.message, "%s: metadata \"type\" is \"%.60s\", expected \"request\"", request_path, type);
  else {
    if (mr3d_bundle_get(request, "id")) id = strdup(mr3d_bundle_get(request, "id"));
    mr3d_backend_ask(backend, request, timeout, &reply);
  }
  bool answered = reply.kind == MR3D_REPLY_ANSWER;
  const bool names_file = strncmp(reply.message, request_path, strlen(request_path)) == 0;
  if (!answered) mr3d_complain("%s%s%s: %s", names_file ? "" : request_path, names_file ? "" : ": ", mr3d_reply_name(reply.kind), reply.message);
  mr3d_status saved = save_answer(path, mr3d_reply_name(reply.kind), answered ? NULL : reply.message, id, reply.answer, &error);
  free(id);
  mr3d_reply_clear(&reply);
  mr3d_bundle_free(&request);
  if (saved != MR3D_OK) return mr3d_complain("%s", error.message);
  return answered ? 0 : 1;
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/** Two requests must not write one answer. */
static int check_names(const char *folder, int n, char **requests) {
  char **paths = mr3d_allocate(n, sizeof *paths);
  int status = 0;
  for (int i = 0; i < n; i++) answer_path(folder, requests[i], paths[i] = mr3d_allocate(4096, 1));
  qsort(paths, (size_t)n, sizeof *paths, by_text);
  for (int i = 1; i < n && !status; i++)
    if (strcmp(paths[i - 1], paths[i]) == 0)
      status = mr3d_complain("two requests would both be answered in %s; give them different names", paths[i]);
  for (int i = 0; i < n; i++) free(paths[i]);
  free(paths);
  return status;
}

int mr3d_command_eval(int argc, char **argv) {
  const char *output = NULL, *spec = "builtin:reference";
  double timeout = 0;
  int64_t threads = 0;
  bool no_isolation = false;
  const mr3d_option table[] = {
      {"-o", "ANSWER", MR3D_OPTION_TEXT, &output, "the answer's file; with several requests a folder (needed)"},
      {"--backend", "SPEC", MR3D_OPTION_TEXT, &spec, "who answers (default builtin:reference; see mr3d check --help)"},
      {"--timeout", "SECONDS", MR3D_OPTION_SECONDS, &timeout, "for one request (default: none)"},
      {"--threads", "N", MR3D_OPTION_COUNT, &threads, "for the reference (default: all processors)"},
      {"--no-isolation", NULL, MR3D_OPTION_FLAG, &no_isolation, "as for mr3d check"},
      {NULL, NULL, MR3D_OPTION_FLAG, NULL, NULL},
  };
  const mr3d_usage usage = {"mr3d eval REQUEST... -o ANSWER [OPTION ...]",
                            "Answers request files: safetensors files with `op`, `tier`, `config` ... in their metadata "
                            "(docs/protocol.md). Several are answered in\n"
                            "order in one session table, and ANSWER is a folder: NAME.req.safetensors gives NAME.ans.safetensors. Each "
                            "answer file says its `type`\n"
                            "in its metadata: answer, error (the request was refused, `message` says why) or unsupported.\n\n"
                            "Exit status: 0 if all are answers, 1 otherwise.\n",
                            1, -1, "a request file is missing; for instance: mr3d eval 0.req.safetensors -o 0.ans.safetensors"};
  int n = 0;
  int status = mr3d_options_parse(&usage, table, argc, argv, &n);
  if (status >= 0) return status;
  if (!output) return mr3d_complain("-o is missing: where should the answer go?\nUsage: %s", usage.line);
  bool folder = n > 1 || is_folder(output);
  if (folder && !is_folder(output) && mkdir(output, 0777) != 0)
    return mr3d_complain("%s: cannot make this folder for the answers: %s", output, strerror(errno));
  if (folder && check_names(output, n, argv) != 0) return 1;

  mr3d_error error = {0};
  mr3d_backend *backend = NULL;
  const mr3d_backend_options options = {.threads = (int)(threads > 1024 ? 1024 : threads), .no_isolation = no_isolation};
  if (mr3d_backend_open(spec, &options, &backend, &error) != MR3D_OK)
    return mr3d_complain("%s", error.message);
  status = 0;
  for (int i = 0; i < n; i++) {
    char path[4096];
    if (folder) answer_path(output, argv[i], path);
    else snprintf(path, sizeof path, "%s", output);
    if (answer_file(backend, timeout, argv[i], path) != 0) status = 1;
  }
  mr3d_backend_close(&backend);
  return status;
}

/** mr3d export: requests as files, for backends that run elsewhere. */
#include "command.h"
#include "offline.h"

int mr3d_command_export(int argc, char **argv) {
  mr3d_run_options options = {0};
  mr3d_selection *selection = &options.selection;
  const char *golden = NULL, *data = NULL;
  int64_t threads = 0;
  const mr3d_option table[] = {
      {"--tier", "LIST", MR3D_OPTION_TIERS, &selection->tiers, "fp64, fp32, tf32, bf16, fp16 (default: all)"},
      MR3D_SELECTION_OPTIONS(selection),
      {"--seed", "N", MR3D_OPTION_SEED, &options.seed, "draw other inputs (default 0, the golden set's)"},
      {"--threads", "N", MR3D_OPTION_COUNT, &threads, "for the reference, which later steps of a session need (default: all processors)"},
      {"--golden", "DIR", MR3D_OPTION_TEXT, &golden, "the golden set (default: MR3D_GOLDEN, else beside the program)"},
      {"--data", "DIR", MR3D_OPTION_TEXT, &data, "folder with prompt_ids.json, for cases on real prompts (default: MR3D_DATA)"},
      {NULL, NULL, MR3D_OPTION_FLAG, NULL, NULL},
  };
  const mr3d_usage usage = {
      "mr3d export DIR [OPTION ...]",
      "Writes the requests of a selection as files into a new folder: NAME.req.safetensors each, weights/ where they need some, and index.json with their\n"
      "SHA-256. Answer them anywhere, as NAME.ans.safetensors with the request's metadata `id`, and let `mr3d check --backend dir:ANSWERS` grade the\n"
      "answers, with the same --seed (docs/writing-a-backend.md, \"Offline\").\n",
      1, 1};
  int n = 0;
  int status = mr3d_options_parse(&usage, table, argc, argv, &n);
  if (status >= 0) return status;
  mr3d_error error = {0};
  mr3d_exported count = {0};
  char golden_dir[4096];
  if (mr3d_find_golden(golden, golden_dir, &error) != MR3D_OK) return mr3d_complain("%s", error.message);
  options.golden_dir = golden_dir;
  options.data_dir = mr3d_find_data(data);
  options.threads = (int)(threads > 1024 ? 1024 : threads);
  if (mr3d_export(&options, argv[0], &count, &error) != MR3D_OK) return mr3d_complain("%s", error.message);
  printf("%d requests and %d weights files of seed %llu in %s\n", count.requests, count.weights, (unsigned long long)options.seed, argv[0]);
  if (count.skipped) printf("%d left out, which need the data folder (--data, MR3D_DATA)\n", count.skipped);
  return 0;
}

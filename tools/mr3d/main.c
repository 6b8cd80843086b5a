/** mr3d: the command line. One command a file; this one only finds it. */
#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "command.h"
#include "words.h"

const mr3d_command mr3d_commands[] = {
    {"check", mr3d_command_check, "run the suite against a backend"},
    {"eval", mr3d_command_eval, "answer request files with the reference, or with any backend"},
    {"compare", mr3d_command_compare, "judge answer files against the reference, without a backend"},
    {"drift", mr3d_command_drift, "where a trace parts from the reference: rounding, or which fault"},
    {"export", mr3d_command_export, "write requests as files, for backends that run elsewhere"},
    {"list", mr3d_command_list, "cases, pitfalls, mutants, ops, levels"},
    {"explain", mr3d_command_explain, "a pitfall or a case: the mistake, its effect, the fix"},
    {"mutants", mr3d_command_mutants, "the kill matrix: every known mistake against every case"},
    {"sensitivity", mr3d_command_sensitivity, "how small an error the judge sees"},
    {"golden", mr3d_command_golden, "verify, list or diff the golden set"},
    {"certify", mr3d_command_certify, "judge a backend under a challenge and sign what came of it"},
    {"verify", mr3d_command_verify, "check a certificate, offline"},
    {"merge", mr3d_command_merge, "make one certificate of the parts of several machines"},
    {"keygen", mr3d_command_keygen, "draw a key to sign with"},
    {"sign", mr3d_command_sign, "sign a list of waivers, or add a signature to a certificate"},
    {"run", mr3d_command_run, "the reference on a scan, a prompt and a checkpoint"},
    {"bench", mr3d_command_bench, "time backends on a full-width decoder"},
    {"scene", mr3d_command_scene, "write a scan of a generated room"},
    {NULL, NULL, NULL},
};

static void print_help(FILE *to) {
  fprintf(to, "Usage: mr3d COMMAND [OPTION ...]\n\nThe numerical reference and conformance suite of MixedRoPE3D.\n\n");
  for (const mr3d_command *c = mr3d_commands; c->name; c++) fprintf(to, "  %-11s  %s\n", c->name, c->summary);
  fprintf(to, "\n`mr3d COMMAND --help` says more. Exit status: 0 good, 2 not compliant, 1 could not run.\n");
}

static const mr3d_command *find(const char *name) {
  const mr3d_command *c = mr3d_commands;
  while (c->name && strcmp(c->name, name) != 0) c++;
  return c->name ? c : NULL;
}

/** One request's arrays have the sizes of the next one's: given back to the system, each page of theirs would be had and cleared anew. */
static void keep_freed_memory(void) {
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
  mallopt(M_MMAP_THRESHOLD, 256 << 20);
  mallopt(M_TRIM_THRESHOLD, 512 << 20);
#endif
}

int main(int argc, char **argv) {
  keep_freed_memory();
  if (argc < 2) {
    print_help(stderr);
    return 1;
  }
  if (strcmp(argv[1], "--version") == 0) {
    printf("mr3d %s\n", MR3D_VERSION);
    return 0;
  }
  if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
    const mr3d_command *command = argc > 2 ? find(argv[2]) : NULL;
    if (command) return command->run(1, (char *[]){"--help", NULL});
    print_help(stdout);
    return 0;
  }
  const mr3d_command *command = find(argv[1]);
  if (command) return command->run(argc - 2, argv + 2);
  const char *names[32];
  int n = 0;
  for (const mr3d_command *c = mr3d_commands; c->name; c++) names[n++] = c->name;
  const char *meant = mr3d_word_meant(argv[1], n, names);
  if (meant) return mr3d_complain("unknown command \"%s\"; did you mean %s?", argv[1], meant);
  return mr3d_complain("unknown command \"%s\"; `mr3d --help` lists the commands", argv[1]);
}

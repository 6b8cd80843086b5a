/** The commands of mr3d: one a file, all with the same kind of options and help. */
#ifndef MR3D_COMMAND_H
#define MR3D_COMMAND_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "mr3d/status.h"

/** A command: takes argv without the command's own name, returns the exit status (0 good, 2 not compliant, 1 could not run). */
typedef struct mr3d_command {
  const char *name;
  int (*run)(int argc, char **argv);
  const char *summary; /**< one line */
} mr3d_command;

/** NULL-terminated by name. */
extern const mr3d_command mr3d_commands[];

int mr3d_command_check(int argc, char **argv);
int mr3d_command_eval(int argc, char **argv);
int mr3d_command_compare(int argc, char **argv);
int mr3d_command_drift(int argc, char **argv);
int mr3d_command_export(int argc, char **argv);
int mr3d_command_list(int argc, char **argv);
int mr3d_command_explain(int argc, char **argv);
int mr3d_command_mutants(int argc, char **argv);
int mr3d_command_sensitivity(int argc, char **argv);
int mr3d_command_golden(int argc, char **argv);
int mr3d_command_bench(int argc, char **argv);
int mr3d_command_run(int argc, char **argv);
int mr3d_command_certify(int argc, char **argv);
int mr3d_command_verify(int argc, char **argv);
int mr3d_command_merge(int argc, char **argv);
int mr3d_command_keygen(int argc, char **argv);
int mr3d_command_sign(int argc, char **argv);
int mr3d_command_scene(int argc, char **argv);

typedef enum mr3d_option_kind {
  MR3D_OPTION_FLAG,    /**< bool *: set to true */
  MR3D_OPTION_TEXT,    /**< const char ** */
  MR3D_OPTION_COUNT,   /**< int64_t *: a whole number of at least 0 */
  MR3D_OPTION_SEED,    /**< uint64_t * */
  MR3D_OPTION_ORDER,   /**< mr3d_order *: given alone, or with a whole number */
  MR3D_OPTION_GIVEN_SEED, /**< mr3d_order *: given, always with a whole number */
  MR3D_OPTION_SECONDS, /**< double *: above 0 */
  MR3D_OPTION_NUMBER,  /**< double *: any finite number */
  MR3D_OPTION_TIERS,   /**< uint32_t *: a bit per mr3d_tier, from a list joined by commas */
} mr3d_option_kind;

typedef struct mr3d_order {
  bool given;
  uint64_t seed;
} mr3d_order;

/** One option; an array of them ends with a NULL name. `--name value` and `--name=value` are the same. */
typedef struct mr3d_option {
  const char *name;  /**< "--seed", or "-o" */
  const char *value; /**< what stands for the value in the help: "N"; NULL for flags */
  mr3d_option_kind kind;
  void *target;
  const char *help;
} mr3d_option;

/** The options that choose cases, of a `mr3d_selection *`. */
#define MR3D_SELECTION_OPTIONS(selection)                                                                                \
  {"--level", "LIST", MR3D_OPTION_TEXT, &(selection)->level, "L0 .. L5"},                                                \
      {"--op", "LIST", MR3D_OPTION_TEXT, &(selection)->op, "operators"},                                                 \
      {"--case", "GLOB", MR3D_OPTION_TEXT, &(selection)->case_glob, "case names, * and ? as in a shell"},                \
      {"--pitfall", "LIST", MR3D_OPTION_TEXT, &(selection)->pitfall, "slugs of the catalogue (mr3d list pitfalls)"},     \
      {"--tag", "LIST", MR3D_OPTION_TEXT, &(selection)->tag, "tags of cases (mr3d list cases)"},                         \
      {"--without-slow", NULL, MR3D_OPTION_FLAG, &(selection)->without_slow, "leave out the cases tagged slow"}

/** What the help says beside the options. */
typedef struct mr3d_usage {
  const char *line;   /**< "mr3d check --backend SPEC [OPTION ...]" */
  const char *text;   /**< paragraphs; may be "" */
  int least, most;    /**< how many arguments that are no options; most < 0: any number */
  const char *needs;  /**< what is missing where there are fewer, with an example; NULL where `least` is 0 */
} mr3d_usage;

/**
 * Parses the options, moves the other arguments to the front of argv and gives their count. Returns -1 to go on, else the exit status:
 * 0 after --help, 1 after an error, which is printed with what was meant.
 */
int mr3d_options_parse(const mr3d_usage *, const mr3d_option *options, int argc, char **argv, int *n_arguments);

/** Prints "mr3d: MESSAGE" to stderr and returns 1. */
int mr3d_complain(const char *format, ...) MR3D_PRINTF(1, 2);

/**
 * The golden set: `given` (--golden), else $MR3D_GOLDEN, else golden/ of the source tree around the program, else the installed one. Its
 * cases.json exists. Errors say where was looked. `path` holds 4096 bytes.
 */
mr3d_status mr3d_find_golden(const char *given, char *path, mr3d_error *);

/** The data folder: `given` (--data), else $MR3D_DATA, else NULL. */
const char *mr3d_find_data(const char *given);

#endif

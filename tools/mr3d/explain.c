/** mr3d explain: a pitfall, a mutant or a case in prose. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "command.h"
#include "mr3d/server.h"
#include "mutants.h"
#include "pitfalls.h"
#include "run.h"
#include "signals.h"
#include "words.h"

static int columns(void) {
  struct winsize size;
  int width = isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 100;
  return width < 40 ? 40 : width > 110 ? 110 : width;
}

/** A paragraph wrapped at blanks, behind a label and indented by two. */
static void print_paragraph(const char *label, const char *text) {
  int width = columns(), at = printf("  %s%s", label, *label ? " " : "");
  for (const char *word = text; *word;) {
    int length = (int)strcspn(word, " \n"), shown = 0;
    for (int i = 0; i < length; i++) shown += ((unsigned char)word[i] & 0xC0) != 0x80; /* bytes that continue a character take no column */
    if (at + shown > width && at > 2) at = printf("\n  ") - 1;
    printf("%.*s", length, word);
    at += shown;
    word += length;
    if (*word) word++;
    if (*word && at < width) at += printf(" ");
  }
  printf("\n\n");
}

static int explain_pitfall(const mr3d_pitfall *pitfall, const mr3d_suite *suite) {
  printf("%s %s: %s\n\n", pitfall->id, pitfall->slug, pitfall->title);
  print_paragraph("Mistake.", pitfall->mistake);
  print_paragraph("Effect.", pitfall->effect);
  print_paragraph("Symptom.", pitfall->symptom);
  print_paragraph("Fix.", pitfall->fix);
  int n = 0;
  for (int m = 0; m < mr3d_mutant_count(); m++) {
    const mr3d_mutant *mutant = mr3d_mutant_at(m);
    if (strcmp(mutant->slug, pitfall->slug) != 0) continue;
    if (n++ == 0) printf("  Mutants (the reference with this mistake; mr3d check --backend mutant:%s/NAME)\n", pitfall->slug);
    printf("    %-30s %s\n", mutant->name, mutant->says);
  }
  printf("%s", n ? "\n" : "  No mutant yet.\n\n");
  mr3d_selection selection = {.pitfall = pitfall->slug, .with_whole = true};
  n = 0;
  for (int i = 0; i < mr3d_suite_count(suite); i++) {
    const mr3d_case *test = mr3d_suite_at(suite, i);
    if (!mr3d_case_selected(test, &selection)) continue;
    if (n++ == 0) printf("  Cases (mr3d check --backend SPEC --pitfall %s)\n", pitfall->slug);
    printf("    %-44s %s\n", test->id, test->title);
  }
  if (!n) printf("  No case covers it yet.\n");
  return 0;
}

static int explain_mutant(const mr3d_mutant *mutant, const mr3d_suite *suite) {
  printf("mutant:%s/%s\n\n", mutant->slug, mutant->name);
  print_paragraph("", mutant->says);
  printf("  Operators it changes: %s\n\n", mutant->ops);
  const mr3d_pitfall *pitfall = mr3d_pitfall_named(mutant->slug);
  return pitfall ? explain_pitfall(pitfall, suite) : 0;
}

static int explain_case(const mr3d_case *test) {
  printf("%s (%s)\n\n", test->id, test->level);
  print_paragraph("What.", test->title);
  print_paragraph("Why.", test->why);
  printf("  Steps");
  for (int s = 0; s < test->n_steps; s++) {
    printf("\n    %d. %s%s", s, test->steps[s].op, test->steps[s].expect_error ? ", must be refused" : "");
    if (test->steps[s].weights) printf(", weights %s", test->steps[s].weights);
    for (int m = 0; m < test->steps[s].n_message; m++)
      printf("%s\"%s\"", m ? ", " : "; the reference's message holds ", test->steps[s].message[m]);
  }
  printf("\n\n  Configuration\n    %s\n\n", test->config);
  for (int p = 0; p < test->n_pitfalls; p++) {
    const mr3d_pitfall *pitfall = mr3d_pitfall_named(test->pitfalls[p]);
    if (p == 0) printf("  Pitfalls it covers\n");
    printf("    %-4s %-18s %s\n", pitfall ? pitfall->id : "", test->pitfalls[p], pitfall ? pitfall->title : "");
  }
  printf("%s  Tags:", test->n_pitfalls ? "\n" : "");
  for (int t = 0; t < test->n_tags; t++) printf(" %s", test->tags[t]);
  printf("%s%s\n", test->n_tags ? "" : " none", test->needs_data ? " (needs the data folder)" : "");
  printf("  Alone: mr3d check --backend SPEC --case %s\n", test->id);
  return 0;
}

/** Levels and operators: known words, described elsewhere. */
static bool is_described_elsewhere(const char *name) {
  bool op = false, level = strlen(name) == 2 && name[0] == 'L' && name[1] >= '0' && name[1] <= '5';
  for (const char *const *known = mr3d_server_ops(); *known; known++) op = op || strcmp(name, *known) == 0;
  if (level)
    mr3d_complain("%s is a level, which is not explained here: `mr3d list levels` says what each covers, docs/concepts.md what levels are, and "
                  "`mr3d list cases --level %s` shows its cases", name, name);
  else if (op)
    mr3d_complain("%s is an operator, which is not explained here: docs/protocol.md lists its inputs and outputs, docs/spec.md its formula, and "
                  "`mr3d list cases --op %s` shows its cases", name, name);
  return level || op;
}

static int unknown(const char *name, const mr3d_suite *suite) {
  int n = 0, count = mr3d_pitfall_count() + mr3d_suite_count(suite);
  const char **known = mr3d_allocate(count, sizeof *known);
  for (int p = 0; p < mr3d_pitfall_count(); p++) known[n++] = mr3d_pitfall_at(p)->slug;
  for (int i = 0; i < mr3d_suite_count(suite); i++) known[n++] = mr3d_suite_at(suite, i)->id;
  const char *meant = mr3d_word_meant(name, n, known);
  free(known);
  if (meant) return mr3d_complain("\"%s\" is no pitfall, mutant or case; did you mean %s?", name, meant);
  return mr3d_complain("\"%s\" is no pitfall, mutant or case; `mr3d list pitfalls` and `mr3d list cases` show what there is", name);
}

/** Whether the text holds the number, not as a part of a longer one. */
static bool holds_number(const char *text, const char *digits, size_t n) {
  for (const char *at = text; (at = strstr(at, digits)); at += n)
    if ((at == text || !isdigit((unsigned char)at[-1])) && !isdigit((unsigned char)at[n])) return true;
  return false;
}

/** Whether a pitfall's symptom names every number of a message (of two digits and more; there is one), or, without numbers, holds the message. */
static bool is_symptom(const mr3d_pitfall *pitfall, const char *message) {
  int numbers = 0;
  for (const char *at = message; *at;) {
    char digits[24];
    size_t n = strspn(at, "0123456789");
    if (n >= 2 && n < sizeof digits) {
      memcpy(digits, at, n);
      digits[n] = '\0';
      if (!holds_number(pitfall->symptom, digits, n) && !holds_number(pitfall->mistake, digits, n)) return false;
      numbers++;
    }
    at += n ? n : 1;
  }
  return numbers > 0 || (strlen(message) >= 3 && strcasestr(pitfall->symptom, message));
}

/** Rows of the table of error signals, and pitfalls that show themselves by such a message; false when there is none. */
static bool explain_symptom(const char *message) {
  const mr3d_signal *signals[8];
  const int rows = mr3d_signals_in_text(message, NULL, 8, signals);
  for (int i = 0; i < rows; i++) {
    printf("%s%s: %s\n", i ? "\n" : "", signals[i]->slug, signals[i]->sight);
    print_paragraph("Because", signals[i]->because);
    print_paragraph("Look at", signals[i]->look);
  }
  int n = 0;
  for (int p = 0; p < mr3d_pitfall_count(); p++) {
    const mr3d_pitfall *pitfall = mr3d_pitfall_at(p);
    if (!is_symptom(pitfall, message)) continue;
    printf("%s%s %s: %s\n  %s\n", n++ ? "\n" : "", pitfall->id, pitfall->slug, pitfall->title, pitfall->symptom);
  }
  if (n) printf("\n`mr3d explain SLUG` tells the mistake and the fix.\n");
  return n > 0 || rows > 0;
}

int mr3d_command_explain(int argc, char **argv) {
  const char *golden = NULL;
  const mr3d_option table[] = {{"--golden", "DIR", MR3D_OPTION_TEXT, &golden, "the golden set"},
                               {NULL, NULL, MR3D_OPTION_FLAG, NULL, NULL}};
  const mr3d_usage usage = {"mr3d explain PITFALL | MUTANT | CASE | MESSAGE",
                            "Says what a pitfall is (by slug or number: mask-length, P1), what a mutant does wrong "
                            "(mask-length/unrepaired), what a case shows, or which pitfalls\nan error message points to: "
                            "`mr3d explain \"size of tensor a (787) must match b (232)\"`.\n",
                            1, 1, "say what to explain; for instance: mr3d explain mask-length"};
  int n = 0;
  int status = mr3d_options_parse(&usage, table, argc, argv, &n);
  if (status >= 0) return status;
  mr3d_error error = {0};
  mr3d_suite *suite = NULL;
  char golden_dir[4096];
  if (mr3d_find_golden(golden, golden_dir, &error) != MR3D_OK || mr3d_suite_open(golden_dir, NULL, &suite, &error) != MR3D_OK)
    return mr3d_complain("%s", error.message);
  const char *name = strncmp(argv[0], "mutant:", 7) == 0 ? argv[0] + 7 : argv[0];
  const mr3d_pitfall *pitfall = mr3d_pitfall_named(name);
  const mr3d_mutant *mutant = mr3d_mutant_named(name);
  const mr3d_case *test = mr3d_suite_find(suite, name);
  status = pitfall  ? explain_pitfall(pitfall, suite)
           : mutant ? explain_mutant(mutant, suite)
           : test   ? explain_case(test)
           : is_described_elsewhere(name) ? 1
           : explain_symptom(argv[0]) ? 0
                    : unknown(name, suite);
  mr3d_suite_close(&suite);
  return status;
}

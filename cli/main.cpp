#include "cli/doctor.hpp"
#include "cli/run.hpp"
#include "cli/serve.hpp"
#include "cli/snapshots.hpp"

#include <CLI/CLI.hpp>

#include <signal.h>
#include <sys/stat.h>

#include <cstdio>

namespace {

/// Threads inherit the mask: the signals go to whoever waits for them.
void block_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : {SIGTERM, SIGINT, SIGUSR2})
    sigaddset(&set, signal);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

} // namespace

int main(int argc, char** argv) {
  using namespace troupe;
  block_signals();
  ::umask(022); // what the contract's file modes assume

  CLI::App app{"Troupe: sandbox sessions for AI agents"};
  app.set_version_flag("--version", TROUPE_VERSION);
  app.require_subcommand(1);

  cli::run_options run;
  auto* run_command = app.add_subcommand("run", "Run one command in a session, without a server");
  run_command->add_option("manifest", run.manifest, "Manifest file (JSON)");
  run_command->add_option("--backend", run.backend, "unix_local (default) or isolated");
  run_command->add_option("--snapshot-dir", run.snapshot_dir,
                          "Stop into a snapshot in this folder");
  run_command->add_option("--resume", run.resume, "Resume from this state file");
  run_command->add_option("--save", run.save, "Write the session's state to this file");
  run_command->add_option("--events", run.events, "Append a line per event to this file");
  run_command->add_flag("--keep", run.keep, "Keep the workspace and say where it is");
  run_command->footer("The command follows after --, as in: troupe run m.json -- make test");

  std::string listen;
  std::string state_dir;
  std::string config_file;
  auto* serve_command = app.add_subcommand("serve", "Run the server");
  serve_command->add_option("--listen", listen, "HOST:PORT (default 127.0.0.1:8700)");
  serve_command->add_option("--state-dir", state_dir, "Where everything it keeps is");
  serve_command->add_option("--config", config_file, "Configuration file (JSON)");

  auto* doctor_command
    = app.add_subcommand("doctor", "Say which walls sandboxes have on this machine");
  cli::snapshots_options snapshots;
  auto* snapshots_command
    = app.add_subcommand("snapshots", "Look after a folder of snapshots, with or without a server");
  snapshots_command->require_subcommand(1);
  struct action {
    const char* name;
    const char* help;
    const char* other; ///< what the second argument is; null: there is none
  };
  for (const auto& x :
       {action{"list", "List all", nullptr}, action{"show", "Show one", nullptr},
        action{"diff", "What changed from one to another (A M D)", "to"},
        action{"export", "Write one as a tar or an OCI image layout", "path"},
        action{"import", "Take one from a tar, an OCI image layout or a folder", "path"},
        action{"verify", "Read all of one and check it", nullptr},
        action{"prune", "Remove the oldest beyond some bounds", nullptr}}) {
    std::string name = x.name;
    auto* command = snapshots_command->add_subcommand(name, x.help);
    command->add_option("--store", snapshots.store, "The folder")->required();
    if (name == "prune") {
      command->add_option("--max-age-s", snapshots.max_age_s, "Seconds");
      command->add_option("--max-count", snapshots.max_count, "How many stay");
      command->add_option("--max-bytes", snapshots.max_bytes, "Of the files inside");
      command->add_flag("--dry-run", snapshots.dry_run, "Only say what would go");
      command->add_flag("--force", snapshots.force, "Also what sessions of a server may need");
    } else if (name != "list") {
      command->add_option("id", snapshots.id, "Which")->required();
    }
    if (x.other)
      command->add_option(x.other, snapshots.other, "Where to or from, or which other");
    if (name == "diff")
      command->add_flag("--text", snapshots.text, "With the differences of small text files");
    if (name == "export")
      command->add_option("--format", snapshots.format, "tar or oci")
        ->check(CLI::IsMember({"tar", "oci"}));
    command->callback([&snapshots, name] { snapshots.action = name; });
  }

  // What follows "--" is the command's, options and all.
  std::vector<char*> own{argv, argv + argc};
  for (int i = 1; i < argc; ++i)
    if (std::string_view{argv[i]} == "--") {
      own.resize(static_cast<size_t>(i));
      run.command.assign(argv + i + 1, argv + argc);
      break;
    }
  CLI11_PARSE(app, static_cast<int>(own.size()), own.data());

  if (*doctor_command)
    return cli::doctor();

  if (*run_command) {
    if (run.command.empty() || (run.manifest.empty() == run.resume.empty())) {
      std::fprintf(stderr, "usage: troupe run MANIFEST.json [options] -- COMMAND...\n"
                           "       troupe run --resume STATE.json [options] -- COMMAND...\n");
      return 2;
    }
    return cli::run(run);
  }

  if (*snapshots_command)
    return cli::snapshots(snapshots);

  cli::serve_config config;
  auto give_up = [](const error& x) {
    std::fprintf(stderr, "troupe: %s %s\n", x.message.c_str(), x.context.c_str());
    return 2;
  };
  if (!config_file.empty())
    if (auto ok = cli::read_config(config_file, config); !ok)
      return give_up(ok.error());
  if (!listen.empty())
    if (auto ok = cli::parse_listen(listen, config); !ok)
      return give_up(ok.error());
  if (!state_dir.empty())
    config.node.state_dir = state_dir;
  return cli::serve(std::move(config));
}

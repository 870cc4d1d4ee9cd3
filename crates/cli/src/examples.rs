//! An example for every command, shown by its `--help`.
//!
//! Lives here: one table. Does not live here: the commands. Tests hold that none is forgotten and that each example is
//! a command line that `orion` takes.

use clap::Command;

/// The words of a command, and an example.
pub const EXAMPLES: &[(&str, &str)] = &[
    ("signup", "orion signup alice"),
    ("login", "orion login alice"),
    ("logout", "orion logout"),
    ("whoami", "orion whoami"),
    ("password", "orion password"),
    ("users list", "orion users list"),
    ("users disable", "orion users disable bob --end-leases"),
    ("users enable", "orion users enable bob"),
    ("users promote", "orion users promote bob"),
    ("users demote", "orion users demote bob"),
    ("users password", "orion users password bob"),
    ("users quota", "orion users quota bob --nodes 8 --lease-hours 720"),
    ("invite create", "orion invite create --note Bob --expires 2d"),
    ("rent", "orion rent --for 4h --count 2 --name train --tag gpu --wait=30m"),
    ("ls", "orion ls --all"),
    ("show", "orion show train"),
    ("ssh", "orion ssh -L 8888:localhost:8888 train"),
    ("ssh-config", "orion ssh-config --install"),
    ("ssh-proxy", "orion ssh-proxy 42"),
    ("extend", "orion extend train 2h"),
    ("release", "orion release train-1 train-2"),
    ("run", "orion run train debian:12 --name web --memory 256 -e WORD=value -- sleep 3600"),
    ("ps", "orion ps train"),
    ("logs", "orion logs -f train web"),
    ("stats", "orion stats train web --no-stream"),
    ("exec", "orion exec -it train web -- bash -l"),
    ("forward", "orion forward train web 8080:80"),
    ("open", "orion open train web"),
    ("stop", "orion stop train web"),
    ("restart", "orion restart train web"),
    ("rm", "orion rm train web"),
    ("image test", "orion image test debian:12"),
    ("image login", "orion image login ghcr.io --username alice"),
    ("image logout", "orion image logout ghcr.io"),
    ("image logins", "orion image logins"),
    ("nodes", "orion -o json nodes"),
    ("nodes show", "orion nodes show node-1"),
    ("nodes drain", "orion nodes drain node-1 --deadline 2h --reason fans --wait"),
    ("nodes undrain", "orion nodes undrain node-1"),
    ("nodes lift", "orion nodes lift node-1"),
    ("nodes declare-dead", "orion nodes declare-dead node-1 --reason burnt"),
    ("nodes forget", "orion nodes forget node-1"),
    ("status", "orion status"),
    ("brake", "orion brake"),
    ("brake lift", "orion brake lift"),
    ("events", "orion events -f"),
    ("token create", "orion token create --note rack-3 --uses 20"),
    ("webhooks create", "orion webhooks create https://hooks.example/orion --kind lease.*,node.dead"),
    ("webhooks ls", "orion webhooks ls"),
    ("webhooks test", "orion webhooks test 2"),
    ("webhooks delete", "orion webhooks delete 2"),
    ("admin create", "orion admin create chief"),
    ("admin after-restore", "orion admin after-restore"),
    ("doctor", "orion doctor --config /etc/orion/orion.toml"),
    ("up", "orion up --listen 0.0.0.0:8080"),
    ("openapi", "orion openapi"),
    ("completions", "orion completions bash"),
];

/// `command` with the examples in the help of each of its subcommands.
pub fn within(command: Command) -> Command {
    described(command, "")
}

fn described(mut command: Command, path: &str) -> Command {
    if let Some((_, example)) = EXAMPLES.iter().find(|(of, _)| *of == path) {
        command = command.after_help(format!("Example: {example}"));
    }
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names {
        let below = if path.is_empty() { name.clone() } else { format!("{path} {name}") };
        command = command.mut_subcommand(name, |sub| described(sub, &below));
    }
    command
}

//! Completion scripts for shells, with the names of the user's leases where a lease is asked for.
//!
//! Lives here: clap's own scripts, and the few lines that have them ask `orion complete leases`. Does not live here:
//! the commands.

use crate::{
    client::Client,
    context::Context,
    error::CliError,
    model::{Rental, shape},
    output,
};
use clap_complete::Shell;
use std::time::Duration;

/// A shell waits for no longer: then there is nothing to complete.
const PATIENCE: Duration = Duration::from_secs(2);
/// Commands that take leases.
const OF_LEASES: [&str; 4] = ["show", "ssh", "extend", "release"];

/// Kind of the values to complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum What {
    /// Names of leases that are not over.
    Leases,
}

/// The script for `shell`.
pub fn script(shell: Shell, mut command: clap::Command) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "orion", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    #[expect(clippy::wildcard_enum_match_arm, reason = "Shell is non-exhaustive")]
    match shell {
        Shell::Bash => bash(&script),
        Shell::Zsh => zsh(&script),
        Shell::Fish => fish(&script),
        _ => script,
    }
}

fn bash(script: &str) -> String {
    let commands = OF_LEASES.join(" | ");
    format!(
        r#"{script}
# Names of leases, where a lease is asked for.
_orion_and_leases() {{
    local word command='' previous=''
    _orion "$@"
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$previous" in -o | --output | --api | --api-ca) previous=''; continue ;; esac
        previous="$word"
        case "$word" in -*) ;; *) command="$word"; break ;; esac
    done
    case "$command" in
    {commands})
        case "${{COMP_WORDS[COMP_CWORD]}}" in
        -*) ;;
        *) COMPREPLY=($(compgen -W "$(orion complete leases 2>/dev/null)" -- "${{COMP_WORDS[COMP_CWORD]}}")) ;;
        esac
        ;;
    esac
}}
complete -F _orion_and_leases -o nosort -o bashdefault -o default orion 2>/dev/null ||
    complete -F _orion_and_leases -o bashdefault -o default orion
"#
    )
}

/// The places where clap's script asks for a lease complete files; they are made to complete leases.
fn zsh(script: &str) -> String {
    let lines: Vec<String> = script
        .lines()
        .map(|line| {
            let line_of_lease = line.contains(":lease") && line.contains(":_default'");
            if line_of_lease { line.replace(":_default'", ":_orion_leases'") } else { line.to_owned() }
        })
        .collect();
    let function = "\n_orion_leases() {\n    local -a names\n    \
                    names=(${(f)\"$(orion complete leases 2>/dev/null)\"})\n    \
                    compadd -a names\n}\n";
    // Before the end, which calls the function that has just been defined.
    let text = lines.join("\n");
    match text.rfind("\nif [ \"$funcstack[1]\"") {
        Some(end) => format!("{}{function}{}\n", &text[..end], &text[end..]),
        None => format!("{text}\n{function}"),
    }
}

fn fish(script: &str) -> String {
    let commands = OF_LEASES.join(" ");
    format!(
        "{script}\ncomplete -c orion -n \"__fish_seen_subcommand_from {commands}\" -f \
         -a \"(orion complete leases 2>/dev/null)\"\n"
    )
}

/// Prints what may stand there, one a line; nothing if it cannot be found out: a shell shows no errors.
pub async fn complete(context: &Context, what: What) -> Result<(), CliError> {
    match what {
        What::Leases => {
            let Ok(client) = context.client() else { return Ok(()) };
            let Ok(names) = tokio::time::timeout(PATIENCE, names(&client)).await else { return Ok(()) };
            let names = names.unwrap_or_default();
            if names.is_empty() { Ok(()) } else { output::data(&names.join("\n")) }
        }
    }
}

async fn names(client: &Client) -> Result<Vec<String>, CliError> {
    let list = client.list("/api/rentals").await?;
    let rentals = list.iter().map(|value| shape::<Rental>(value, "lease")).collect::<Result<Vec<_>, _>>()?;
    Ok(rentals.iter().map(Rental::handle).filter(|name| output::printable(name) == *name).collect())
}

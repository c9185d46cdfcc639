//! A client command with its flags, which no other command of the binary has.

use super::{CheckArgs, ClientCommand, Global};
use clap::{ArgMatches, Args as _, Command, Error, FromArgMatches, Subcommand};

/// What the binary flattens into its own commands.
#[derive(Debug)]
pub enum ClientArgs {
    /// `check`, which needs no node.
    Offline(CheckArgs),
    /// A command against a node.
    Node(ClientCommand, Global),
}

const CHECK: &str = "check";

/// Each client command takes the flags, before or after the words of its own commands; other commands do not know them.
impl Subcommand for ClientArgs {
    fn augment_subcommands(command: Command) -> Command {
        let check = Command::new(CHECK)
            .about("Validates configuration files; needs no node")
            .after_help("Examples:\n  zonekeeper check cluster-config");
        let client = ClientCommand::augment_subcommands(Command::new("client"));
        let flags = Global::augment_args(Command::new("flags")); // apart, since it would bring its own `about`
        let with_flags = client.get_subcommands().map(|c| c.clone().args(flags.get_arguments()));
        command.subcommand(CheckArgs::augment_args(check)).subcommands(with_flags)
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        ClientArgs::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        name == CHECK || ClientCommand::has_subcommand(name)
    }
}

impl FromArgMatches for ClientArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<ClientArgs, Error> {
        match matches.subcommand() {
            Some((CHECK, check)) => Ok(ClientArgs::Offline(CheckArgs::from_arg_matches(check)?)),
            Some((_, flags)) => Ok(ClientArgs::Node(
                ClientCommand::from_arg_matches(matches)?,
                Global::from_arg_matches(flags)?,
            )),
            None => Err(Error::new(clap::error::ErrorKind::MissingSubcommand)),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = ClientArgs::from_arg_matches(matches)?;
        Ok(())
    }
}

//! `hive dev`: a whole fleet on this machine that stays up until Ctrl-C.

pub(crate) mod binaries;
mod checks;
mod child;
mod config;
mod fleet;
mod folder;
mod leftovers;
mod logs;
mod ready;
mod restart;
mod signals;

use std::net::SocketAddr;

pub(crate) use child::CERTIFICATES;
pub(crate) use fleet::{Fleet, Options};
pub(crate) use folder::{Folder, write_atomically};
pub(crate) use signals::Signals;

use crate::args::Dev;
use crate::clock;
use crate::failure::Failure;
use crate::output;

/// Says what happened, with the time of day.
pub(crate) fn notice(text: &str) {
    output::say(&format!("{} {text}", clock::time_of_day()));
}

/// Runs the fleet.
pub(crate) async fn run(args: Dev) -> Result<(), Failure> {
    let folder = match (&args.data, args.ephemeral) {
        (_, true) => Folder::ephemeral()?,
        (Some(path), false) => Folder::open(path)?,
        (None, false) => Folder::open(&folder::default_root()?)?,
    };
    let (listen, ops_listen) = addresses(&args)?;
    let options = Options {
        listen,
        ops_listen,
        sidecars: args.fleet.sidecars,
        slots: args.fleet.slots,
        ready_file: args.fleet.ready_file,
    };
    let mut signals = Signals::listen()?;
    let mut fleet = tokio::select! {
        fleet = Fleet::start(folder, options) => fleet?,
        () = signals.next() => return Ok(()),
    };
    let mut say = |text: String| notice(&text);
    let result = tokio::select! {
        result = fleet.ready(&mut say) => Some(result),
        () = signals.next() => None,
    };
    let result = match result {
        Some(Ok(())) => match output::line(&welcome(&fleet)) {
            Ok(()) => loop {
                tokio::select! {
                    text = fleet.next() => notice(&text),
                    () = signals.next() => break Ok(()),
                }
            },
            Err(failure) => Err(failure),
        },
        Some(Err(failure)) => Err(failure),
        None => Ok(()),
    };
    output::say("stopping (Ctrl-C again to end at once)");
    fleet.stop(&mut signals, &mut say).await;
    result
}

fn addresses(args: &Dev) -> Result<(SocketAddr, SocketAddr), Failure> {
    let mut listen = args.listen;
    if let Some(port) = args.port {
        listen.set_port(port);
    }
    let ops = match (args.ops_listen, listen.port()) {
        (Some(ops), _) => ops,
        (None, 0) => SocketAddr::new(listen.ip(), 0),
        (None, port) => match port.checked_add(1) {
            Some(next) => SocketAddr::new(listen.ip(), next),
            None => {
                return Err(Failure::usage("no port for health and metrics", "there is none after 65535")
                    .next("name one with --ops-listen"));
            }
        },
    };
    Ok((listen, ops))
}

/// A file to try things on. Absolute: agents have working folders of their own.
fn example() -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let readme = here.join("README.md");
    let plain = |text: &&str| !text.contains(['\'', '"', '\\']);
    match readme.to_str().filter(plain) {
        Some(path) if readme.is_file() => path.to_owned(),
        _ => "/etc/passwd".to_owned(),
    }
}

fn welcome(fleet: &Fleet) -> String {
    let (sidecars, agents) = fleet.size();
    let endpoint = fleet.endpoint();
    let target = endpoint.trim_start_matches("http://");
    let ops = fleet.ops();
    let example = example();
    let server =
        if target == "127.0.0.1:7070" { String::new() } else { format!("export HIVE_SERVER={endpoint}\n    ") };
    format!(
        "Hive is up: one control plane, {sidecars} sidecars, {agents} agents.
  clients and sidecars  {endpoint}
  health and metrics    {ops}/metrics
  data and logs         {}

Try, from another shell:
    {server}hive agents
    hive submit --capability wc --payload '{{\"path\": \"{example}\"}}' --wait
    hive submit --capability echo --payload '{{\"ask\": \"Go on?\"}}'     then: hive input ID --payload yes
    hive list
    hive watch
    hive status -o json
    grpcurl -plaintext {target} list
    grpcurl -plaintext {target} hive.v1.ClusterService/GetStatus

Ctrl-C stops it; running work gets 30 s to finish.",
        fleet.root().display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Verb};
    use clap::Parser as _;

    fn dev(line: &str) -> Dev {
        match Cli::try_parse_from(line.split_whitespace()).unwrap().verb {
            Verb::Dev(dev) => dev,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_ops_port_follows_the_clients_port() {
        for (line, listen, ops) in [
            ("hive dev", "127.0.0.1:7070", "127.0.0.1:7071"),
            ("hive dev --port 0", "127.0.0.1:0", "127.0.0.1:0"),
            ("hive dev --listen [::1]:9000", "[::1]:9000", "[::1]:9001"),
            ("hive dev --port 9000 --ops-listen 127.0.0.1:1", "127.0.0.1:9000", "127.0.0.1:1"),
        ] {
            assert_eq!(addresses(&dev(line)).unwrap(), (listen.parse().unwrap(), ops.parse().unwrap()), "{line}");
        }
        assert!(addresses(&dev("hive dev --port 65535")).is_err());
    }
}

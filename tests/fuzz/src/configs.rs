//! Settings as people write them: files and environments of both programs.

use clap::Parser as _;
use hive_control_plane::config::{self, Program, Sources};
use hive_sidecar::config::Flags;

use super::source::Source;

pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    match source.below(3) {
        0 => {
            let text = text(&mut source);
            if let Ok(config) = hive_sidecar::config::parse(&text, &Flags::default(), |_| None) {
                assert!(!config.agents.is_empty() && config.agents.len() <= hive_sidecar::config::MAX_AGENTS);
                assert!(config.agents.iter().all(|agent| (1..=100).contains(&agent.slots)));
            }
        }
        1 => {
            let file = text(&mut source);
            load(Sources::new(&flags(), Vec::new()).with_file("file.toml".into(), file));
        }
        _ => {
            let mut environment = Vec::new();
            while !source.is_dry() {
                let name = String::from_utf8_lossy(source.chunk()).into_owned();
                environment.push((format!("HIVE_{name}"), String::from_utf8_lossy(source.chunk()).into_owned()));
            }
            load(Sources::new(&flags(), environment));
        }
    }
}

fn flags() -> config::Flags {
    Program::try_parse_from(["hive-control-plane"]).expect("no flags").flags
}

fn load(sources: Sources) {
    match config::load(&sources) {
        // What is printed must be possible to print, and to read.
        Ok(loaded) => drop(loaded.print(true)),
        Err(faults) => assert!(!faults.to_string().is_empty()),
    }
}

fn text(source: &mut Source<'_>) -> String {
    let mut rest = Vec::new();
    while !source.is_dry() {
        rest.push(source.byte());
    }
    String::from_utf8_lossy(&rest).into_owned()
}

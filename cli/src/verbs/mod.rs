//! One function per verb; each makes its calls and prints. Leaves the wire to `connect` and the
//! forms of output to `output`.

mod agents;
pub(crate) use agents::phase_name;
mod logs;
mod payload;
mod status;
mod submit;
pub(crate) mod task;
mod wait;
mod watch;

use crate::args::{Cli, Verb};
use crate::connect::Client;
use crate::failure::Failure;
use crate::output::Format;
use crate::{agent, bench, demo, dev};

/// What a verb that talks to a control plane works with.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) format: Format,
}

/// Does what the command line asks for.
pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    let verb = match cli.verb {
        Verb::Dev(args) => return dev::run(args).await,
        Verb::Demo(args) => return demo::run(args).await,
        Verb::DemoAgent => return agent::sdk::run().await,
        Verb::Bench(args) => return bench::run(args, &cli.global).await,
        other => other,
    };
    let client =
        Client::with(&cli.global.server, &cli.global.namespace, cli.global.deadline, &cli.global.certificates)?;
    let cx = Context { client, format: cli.global.output };
    match verb {
        Verb::Submit(args) => submit::run(&cx, *args).await,
        Verb::Get(args) => task::get(&cx, args).await,
        Verb::List(args) => task::list(&cx, args).await,
        Verb::Watch(args) => watch::run(&cx, args).await,
        Verb::Wait(args) => wait::run(&cx, args).await,
        Verb::Cancel(args) => task::cancel(&cx, args).await,
        Verb::Input(args) => submit::input(&cx, args).await,
        Verb::Logs(args) => logs::run(&cx, args).await,
        Verb::Agents(args) => agents::run(&cx, args).await,
        Verb::Drain(args) => agents::drain(&cx, args).await,
        Verb::Remove(args) => agents::remove(&cx, args).await,
        Verb::Status => status::run(&cx).await,
        Verb::Dev(_)
        | Verb::Demo(_)
        | Verb::Bench(_)
        | Verb::DemoAgent
        | Verb::Certs(_)
        | Verb::DemoTool { .. }
        | Verb::Completions { .. } => Ok(()),
    }
}

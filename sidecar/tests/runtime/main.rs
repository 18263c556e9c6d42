//! Both runtimes against real processes. The test binary is its own shim, so it has its own `main`.

mod adopt;
mod agent;
mod agent_faults;
mod command;
mod rig;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// A trial that runs an async function of that name.
macro_rules! trials {
    ($($module:ident: $($test:ident),* $(,)?;)*) => {
        vec![$($(Trial::test(concat!(stringify!($module), "::", stringify!($test)), || {
            rig::block_on($module::$test());
            Ok(())
        })),*),*]
    };
}

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|arg| arg == "shim") {
        return hive_sidecar::shim::main();
    }
    let trials = trials! {
        command:
            success_brings_stdout_back,
            placeholders_and_environment_reach_the_program,
            exit_codes_are_told_truthfully,
            a_signal_is_told_truthfully,
            a_large_payload_passes_through,
            a_missing_program_fails_to_start,
            a_result_too_large_fails,
            output_past_the_limit_is_counted_and_cut,
            a_timeout_ends_the_group,
            cancel_lets_the_program_end_gracefully,
            cancel_kills_what_ignores_term_with_all_its_children,
            strays_of_a_normal_end_are_killed,
            what_left_the_group_is_found,
            a_killed_shim_ends_the_attempt_and_its_program,
            memory_is_limited,
            slots_are_never_exceeded,
            output_is_followed_while_it_comes,
            a_shutdown_ends_what_runs,
            a_drain_is_said_and_undone;
        adopt:
            a_running_attempt_is_adopted,
            a_finished_attempt_is_read,
            a_vanished_attempt_is_lost_and_its_program_ended,
            a_late_shim_starts_nothing,
            a_reused_pid_fools_nobody,
            a_run_in_no_journal_is_ended;
        agent:
            assign_progress_input_result,
            the_agent_outlives_the_sidecar,
            a_reconnect_reconciles,
            a_later_stream_ends_the_earlier,
            cancel_reaches_the_agent,
            the_end_of_a_released_attempt_may_be_forgotten,
            removal_ends_the_process;
        agent_faults:
            a_crash_ends_attempts_and_restarts_the_process,
            last_words_of_a_dead_process_are_heard,
            a_killed_shim_costs_its_agent_too,
            restarts_stop_after_a_while,
            an_attempt_that_does_not_end_costs_the_process,
            time_waiting_for_input_does_not_count,
            an_agent_that_never_speaks_is_restarted,
            a_silent_stream_is_ended,
            garbage_gets_a_clear_status,
            a_socket_in_use_is_not_taken,
            waiting_work_is_given_back_when_nobody_takes_it;
    };
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

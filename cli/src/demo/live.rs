//! Live progress: on a terminal a block that is redrawn, without one a line per second. It goes to
//! standard error; the report has standard output for itself.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use super::board::Board;
use crate::clock;

/// Rates are over so long.
const WINDOW: Duration = Duration::from_secs(5);
/// Agents with a line of their own.
const AGENT_LINES: usize = 16;

/// Draws a board.
#[derive(Debug)]
pub(crate) struct Live {
    terminal: bool,
    started: Instant,
    /// When how many were done.
    history: VecDeque<(Instant, usize)>,
    /// Lines of the block on the screen.
    drawn: usize,
    last: Option<Instant>,
}

impl Live {
    pub(crate) fn new(now: Instant) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self {
            terminal: io::stderr().is_terminal() && !dumb,
            started: now,
            history: VecDeque::new(),
            drawn: 0,
            last: None,
        }
    }

    /// How often to draw.
    pub(crate) fn period(&self) -> Duration {
        if self.terminal { Duration::from_millis(200) } else { Duration::from_secs(1) }
    }

    /// Draws the board as it stands.
    pub(crate) fn draw(&mut self, board: &Board, now: Instant) {
        let rate = self.rate(board.counts().done(), now);
        let waited = now.duration_since(self.started);
        if self.terminal {
            // A terminal that does not know its width says 0.
            let width = rustix::termios::tcgetwinsize(io::stderr()).map_or(0, |size| size.ws_col);
            let width = if width == 0 { 80 } else { usize::from(width) };
            let lines = block(board, rate, waited);
            let text: String = lines.iter().map(|line| format!("{}\n", cut(line, width))).collect();
            self.put(&text);
            self.drawn = lines.len();
        } else if self.last.is_none_or(|last| now.duration_since(last) >= Duration::from_millis(900)) {
            self.last = Some(now);
            self.put(&format!("{} {}\n", clock::time_of_day(), line(board, rate)));
        }
    }

    /// Says something above the block.
    pub(crate) fn notice(&mut self, text: &str) {
        self.put(&format!("{} {text}\n", clock::time_of_day()));
        self.drawn = 0;
    }

    /// What was done up to now is no work of this run.
    pub(crate) fn forget(&mut self) {
        self.history.clear();
    }

    /// Tasks per second lately.
    fn rate(&mut self, done: usize, now: Instant) -> f64 {
        self.history.push_back((now, done));
        while self.history.len() > 2 && self.history.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
            self.history.pop_front();
        }
        let Some((since, before)) = self.history.front() else { return 0.0 };
        let seconds = now.duration_since(*since).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate, for people")]
        let more = done.saturating_sub(*before) as f64;
        if seconds > 0.0 { more / seconds } else { 0.0 }
    }

    fn put(&mut self, text: &str) {
        let mut out = io::stderr().lock();
        let erase = if self.drawn > 0 { format!("\x1b[{}A\x1b[J", self.drawn) } else { String::new() };
        // Nowhere to complain to if standard error is gone.
        let _ = out.write_all(format!("{erase}{text}").as_bytes()).and_then(|()| out.flush());
    }
}

/// One line for all.
fn line(board: &Board, rate: f64) -> String {
    let counts = board.counts();
    let agents: Vec<_> =
        board.agents().iter().map(|(id, share)| format!("{id} {}+{}", share.done, share.running)).collect();
    format!(
        "{} of {} done: {} queued, {} running, {} succeeded, {} failed, {} retried; {rate:.0} tasks/s; done+running per agent: {}",
        counts.done(),
        board.total(),
        counts.queued,
        counts.running,
        counts.succeeded,
        counts.failed,
        counts.retried,
        agents.join(", "),
    )
}

/// A block for a terminal.
fn block(board: &Board, rate: f64, waited: Duration) -> Vec<String> {
    let counts = board.counts();
    let share = (counts.done() * 100).checked_div(board.total()).unwrap_or(100);
    let bar = "#".repeat(share * 30 / 100);
    let seconds = waited.as_secs();
    let mut lines = vec![
        format!(
            "[{bar:30}] {share:3} %  {} of {} done  {}:{:02}",
            counts.done(),
            board.total(),
            seconds / 60,
            seconds % 60
        ),
        format!(
            "queued {}  running {}  succeeded {}  failed {}  retried {}  {rate:.0} tasks/s",
            counts.queued, counts.running, counts.succeeded, counts.failed, counts.retried
        ),
    ];
    for (id, share) in board.agents().iter().take(AGENT_LINES) {
        lines.push(format!("  {id:12} done {:6}  running {:3}", share.done, share.running));
    }
    let more = board.agents().len().saturating_sub(AGENT_LINES);
    if more > 0 {
        lines.push(format!("  and {more} more agents"));
    }
    lines
}

/// A line that wraps would break the redraw.
fn cut(text: &str, width: usize) -> String {
    text.chars().take(width.saturating_sub(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::board::Report;
    use hive_proto::v1::TaskState;

    fn board() -> Board {
        let mut board = Board::new(["a", "b", "c", "d"].into_iter().map(str::to_owned));
        for (id, state, attempt) in
            [("a", TaskState::Succeeded, 1), ("b", TaskState::Failed, 3), ("c", TaskState::Running, 1)]
        {
            board.apply(Report { id: id.into(), state, agent: "sdk-1".into(), attempt });
        }
        board
    }

    #[test]
    fn without_a_terminal_one_line_says_it_all() {
        assert_eq!(
            line(&board(), 12.4),
            "2 of 4 done: 1 queued, 1 running, 1 succeeded, 1 failed, 2 retried; 12 tasks/s; \
             done+running per agent: sdk-1 2+1"
        );
    }

    #[test]
    fn the_block_has_a_line_per_agent() {
        let lines = block(&board(), 0.0, Duration::from_secs(65));
        assert_eq!(lines[0], "[###############               ]  50 %  2 of 4 done  1:05");
        assert_eq!(lines[2], "  sdk-1        done      2  running   1");
        assert_eq!(cut("abcdef", 4), "abc");
    }

    #[test]
    fn rates_are_of_late() {
        let start = clock::now();
        let mut live = Live::new(start);
        let mut rate = 0.0;
        for second in 0..20_u32 {
            let done = if second < 10 { 0 } else { usize::try_from(second - 9).unwrap() * 100 };
            rate = live.rate(done, start + Duration::from_secs(u64::from(second)));
        }
        assert!((rate - 100.0).abs() < 1.0, "{rate}");
        assert!(live.history.len() < 10);
    }
}

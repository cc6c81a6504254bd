//! How it looks.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Cell, Clear, Paragraph, Row as TableRow, Table, TableState},
};

use super::view::{Column, Row, View};
use crate::{
    journal::{Level, Outcome},
    terminal::{plain, span, thousands},
    traffic::{Picture, Reason, Stop, TopicKind},
};

/// Heights of bars, the lowest first.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Width of the trend of a stop.
const TREND: usize = 20;

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, view: &mut View) {
    let rows = view.rows();
    let reasons = Constraint::Length(if frame.area().height >= 20 { 8 } else { 0 });
    let parts = Layout::vertical([Constraint::Length(2), Constraint::Min(3), reasons, Constraint::Length(1)]);
    let [head, stops, why, foot] = parts.areas(frame.area());
    frame.render_widget(Paragraph::new(summary(view, &rows)), head);
    match message(view) {
        Some(text) => frame.render_widget(Paragraph::new(text).alignment(Alignment::Center), stops),
        None => draw_stops(frame, view, &rows, stops),
    }
    draw_reasons(frame, view, &rows, why);
    frame.render_widget(keys(view), foot);
    if view.help {
        draw_help(frame);
    }
}

/// What there is to say in place of a table.
fn message(view: &View) -> Option<String> {
    let Some(picture) = view.picture() else { return Some("\nlooking".to_owned()) };
    if picture.journal.level == Level::Off {
        return Some("\nthe journal is off: set journal.level to \"all\" to see what goes on".to_owned());
    }
    if !picture.stops.is_empty() {
        return None;
    }
    let trouble = picture.journal.state.error.as_ref().or(picture.bus.error.as_ref());
    Some(match trouble {
        Some(error) => format!("\nwaits for the bus: {}", plain(error)),
        None => "\nno messages yet: `metrobus pusher` sends some, `metrobus run` runs the stops".to_owned(),
    })
}

/// All stops together, in two lines.
fn summary(view: &View, rows: &[Row]) -> Vec<Line<'static>> {
    let Some(picture) = view.picture() else { return vec![Line::from("metrobus".bold())] };
    let sum = |of: fn(&Stop) -> f64| rows.iter().map(|row| of(&row.stop)).sum::<f64>();
    let waiting: u64 = rows.iter().filter_map(|row| row.waiting).sum();
    let letters: u64 =
        picture.topics.iter().filter(|topic| topic.kind == TopicKind::Dead).filter_map(|topic| topic.records).sum();
    let mut first = vec![
        "metrobus".bold(),
        format!("   {} stops", rows.len()).into(),
        format!("   {} hops/s", rate(sum(|stop| stop.volume.rate))).into(),
        format!("   waiting {}", thousands(waiting)).into(),
        coloured(format!("   dropped {}/s", rate(sum(|stop| stop.verdict(Outcome::Dropped).rate))), Color::Yellow),
        coloured(format!("   rejected {}/s", rate(sum(|stop| stop.verdict(Outcome::Rejected).rate))), Color::Red),
        format!("   dead letters {}", thousands(letters)).into(),
    ];
    if view.paused {
        first.push("   paused".reversed());
    }
    vec![Line::from(first), Line::from(trouble(picture))]
}

/// What is wrong, where anything is.
fn trouble(picture: &Picture) -> Vec<Span<'static>> {
    let states = [("bus", &picture.bus), ("journal", &picture.journal.state)];
    let told = states.into_iter().filter_map(|(name, state)| Some((name, state.error.as_ref()?)));
    told.map(|(name, error)| format!("{name}: {}  ", plain(error)).red()).collect()
}

fn coloured(text: String, colour: Color) -> Span<'static> {
    // Nothing happens: nothing to look at
    if text.ends_with(" 0/s") { text.into() } else { Span::styled(text, Style::new().fg(colour)) }
}

fn draw_stops(frame: &mut Frame<'_>, view: &View, rows: &[Row], area: Rect) {
    let head = Column::ALL.map(|column| {
        let mark = match (column == view.sort, view.descending) {
            (false, _) => "",
            (true, true) => "▼",
            (true, false) => "▲",
        };
        let title = Line::from(format!("{}{mark}", column.title()));
        let title = if column == Column::Stop { title } else { title.alignment(Alignment::Right) };
        Cell::from(title.bold())
    });
    let head = head.into_iter().chain([Cell::from("TREND".bold())]);
    let lines = rows.iter().map(|row| TableRow::new(cells(view, row)));
    let widest = rows.iter().map(|row| row.stop.name.chars().count()).max().unwrap_or(0).clamp(12, 40) as u16;
    let widths = [widest, 10, 10, 9, 9, 11, 12, 14].map(Constraint::Length).into_iter();
    let table = Table::new(lines, widths.chain([Constraint::Fill(1)]))
        .header(TableRow::new(head))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(view.place(rows));
    frame.render_stateful_widget(table, area, &mut state);
}

fn cells(view: &View, row: &Row) -> Vec<Cell<'static>> {
    let Row { stop, waiting } = row;
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let (dropped, rejected) = (stop.verdict(Outcome::Dropped).rate, stop.verdict(Outcome::Rejected).rate);
    let right = |text: String| Cell::from(Line::from(text).alignment(Alignment::Right));
    let alarm = |cell: Cell<'static>, is: bool, colour| if is { cell.fg(colour) } else { cell };
    vec![
        Cell::from(plain(&stop.name)),
        right(rate(stop.volume.rate)),
        right(or_none(waiting.map(thousands))),
        right(or_none(stop.took_us.map(|took| span(took.p50)))),
        right(or_none(stop.took_us.map(|took| span(took.p99)))),
        alarm(right(rate(dropped)), dropped > 0.0, Color::Yellow),
        alarm(right(rate(rejected)), rejected > 0.0, Color::Red),
        right(thousands(stop.volume.count)),
        Cell::from(format!(" {}", trend(view, &stop.name))).fg(Color::Cyan),
    ]
}

/// The last rates as bars.
fn trend(view: &View, stop: &str) -> String {
    let rates: Vec<_> = view.trend(stop).collect();
    let rates = &rates[rates.len().saturating_sub(TREND)..];
    let most = rates.iter().copied().fold(0.0, f64::max);
    let bar = |rate: &f64| match *rate > 0.0 {
        true => BARS[((rate / most * BARS.len() as f64) as usize).min(BARS.len() - 1)],
        false => ' ',
    };
    rates.iter().map(bar).collect()
}

/// Why the stop that is looked at drops and rejects.
fn draw_reasons(frame: &mut Frame<'_>, view: &View, rows: &[Row], area: Rect) {
    let Some(row) = view.place(rows).map(|place| &rows[place]).filter(|_| area.height > 0) else { return };
    let title = format!(
        " {}, reads {} ",
        plain(&row.stop.name),
        row.stop.topics.iter().map(|topic| plain(topic)).collect::<Vec<_>>().join(", ")
    );
    let block = Block::bordered().title(title);
    if row.stop.reasons.is_empty() {
        frame.render_widget(Paragraph::new("nothing dropped, nothing rejected").block(block), area);
        return;
    }
    let line = |reason: &Reason| {
        let text = format!(
            "{:>14}  {:>8}/s  {:<9} {}",
            thousands(reason.volume.count),
            rate(reason.volume.rate),
            reason.verdict,
            plain(&reason.reason)
        );
        Line::from(text)
    };
    frame.render_widget(Paragraph::new(row.stop.reasons.iter().map(line).collect::<Vec<_>>()).block(block), area);
}

fn keys(view: &View) -> Line<'static> {
    if view.typing || !view.filter.is_empty() {
        let end = if view.typing { "_  (enter: keep, esc: all)" } else { "  (esc: all)" };
        return Line::from(vec!["filter: ".bold(), plain(&view.filter).into(), end.dim()]);
    }
    Line::from("q quit   ↑↓ stop   s/S sort by   r reverse   / filter   space pause   ? help".dim())
}

fn draw_help(frame: &mut Frame<'_>) {
    let lines = [
        "MSG/S       messages judged a second, of the last five",
        "WAITING     messages on its topic that it has not settled",
        "P50, P99    time for the batch that a message was in",
        "DROPPED/S   ended on purpose, with a reason",
        "REJECTED/S  made a dead letter",
        "MESSAGES    since top has looked back: at most the last",
        "            10,000 entries of the journal",
        "",
        "↑ ↓ j k     choose a stop; its reasons are below",
        "s S ← →     sort by another column, r the other way",
        "/           filter by stop or topic, esc shows all",
        "space p     pause; q, Ctrl-C quit",
    ];
    let (width, height) = (60, lines.len() as u16 + 2);
    let area = frame.area();
    let (x, y) = (area.width.saturating_sub(width) / 2, area.height.saturating_sub(height) / 2);
    let area = Rect::new(x, y, width, height).intersection(area);
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines.map(Line::from).to_vec()).block(Block::bordered().title(" help ")), area);
}

/// Small rates with their tenths.
fn rate(rate: f64) -> String {
    match rate {
        0.0 => "0".to_owned(),
        rate if rate < 100.0 => format!("{rate:.1}"),
        rate => thousands(rate.round() as u64),
    }
}

#[cfg(test)]
pub mod tests {
    use std::sync::Arc;

    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::traffic::{JournalState, Percentiles, State, TopicState, Volume};

    /// Three stops, of which the second drops.
    pub fn picture() -> Picture {
        let stop = |name: &str, topic: &str, rate: f64, took: u64| Stop {
            name: name.to_owned(),
            topics: vec![topic.to_owned()],
            volume: Volume { count: (rate * 100.0) as u64, rate },
            took_us: Some(Percentiles { p50: took / 2, p99: took }),
            age_ms: None,
            verdicts: Default::default(),
            reasons: Vec::new(),
        };
        let mut contactpoint = stop("contactpoint", "AddEmail", 900.0, 90_000);
        let dropped = Volume { count: 6000, rate: 60.0 };
        contactpoint.verdicts.insert(Outcome::Dropped, dropped);
        let reason = "unknown\u{1b}[2J account".to_owned();
        contactpoint.reasons.push(Reason { verdict: Outcome::Dropped, reason, volume: dropped });
        let topic =
            |name: &str, lag| TopicState { name: name.to_owned(), kind: TopicKind::Stop, records: Some(9), lag };
        Picture {
            time: 0,
            since: Some(0),
            bus: State { ok: true, error: None },
            journal: JournalState { level: Level::All, state: State { ok: true, error: None }, hops: 0 },
            topics: vec![topic("AddEmail", Some(1234)), topic("Source", Some(0)), topic("WhiteList", None)],
            stops: vec![
                stop("busdriver", "Source", 1000.0, 400),
                contactpoint,
                stop("whitelist", "WhiteList", 0.5, 700),
            ],
            edges: Vec::new(),
        }
    }

    /// The screen as text, a line each, with its trailing blanks off.
    fn screen(view: &mut View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line =
            |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned() + "\n";
        (0..height).map(line).collect()
    }

    #[test]
    fn it_shows_stops_reasons_and_keys() {
        let mut view = View::new(Column::Rate, String::new());
        view.take(Arc::new(picture()));
        view.press(ratatui::crossterm::event::KeyCode::Down, ratatui::crossterm::event::KeyModifiers::NONE);
        let expected = "\
metrobus   3 stops   1,901 hops/s   waiting 1,234   dropped 60.0/s   rejected 0/s   dead letters 0

STOP             MSG/S▼    WAITING       P50       P99   DROPPED/S   REJECTED/S       MESSAGES TREND
busdriver         1,000          0    200 µs    400 µs           0            0        100,000  █
contactpoint        900      1,234   45.0 ms   90.0 ms        60.0            0         90,000  █
whitelist           0.5          -    350 µs    700 µs           0            0             50  █









┌ contactpoint, reads AddEmail ────────────────────────────────────────────────────────────────────┐
│         6,000      60.0/s  dropped   unknown\u{fffd}[2J account                                         │
│                                                                                                  │
│                                                                                                  │
│                                                                                                  │
│                                                                                                  │
│                                                                                                  │
└──────────────────────────────────────────────────────────────────────────────────────────────────┘
q quit   ↑↓ stop   s/S sort by   r reverse   / filter   space pause   ? help
";
        assert_eq!(screen(&mut view, 100, 24), expected);
    }

    #[test]
    fn where_there_is_nothing_it_says_what_to_do() {
        let mut view = View::new(Column::Stop, String::new());
        let empty = || Picture { stops: Vec::new(), ..picture() };
        view.take(Arc::new(empty()));
        assert!(screen(&mut view, 100, 24).contains("metrobus pusher"));
        view.take(Arc::new(Picture { bus: State { ok: false, error: Some("Kafka is away".into()) }, ..empty() }));
        let shown = screen(&mut view, 100, 24);
        assert!(shown.contains("waits for the bus: Kafka is away") && shown.contains("bus: Kafka is away"), "{shown}");
        let journal = JournalState { level: Level::Off, ..empty().journal };
        view.take(Arc::new(Picture { journal, ..empty() }));
        assert!(screen(&mut view, 100, 24).contains("journal.level"));
    }

    #[test]
    fn no_size_of_the_terminal_is_too_small() {
        let mut view = View::new(Column::Stop, String::new());
        view.take(Arc::new(picture()));
        view.help = true;
        for (width, height) in [(1, 1), (3, 50), (200, 2), (20, 5), (59, 13)] {
            screen(&mut view, width, height);
        }
    }
}

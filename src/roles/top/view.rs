//! What of the picture is shown, and how keys change that.

use std::{
    cmp::Ordering,
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use clap::ValueEnum;
use ratatui::crossterm::event::{KeyCode, KeyModifiers};

use crate::{
    journal::Outcome,
    traffic::{Picture, Stop},
};

/// Rates of the past that are kept, a picture each: some half a minute.
const TREND: usize = 60;

/// A column of the table of stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Column {
    Stop,
    Rate,
    Waiting,
    P50,
    P99,
    Dropped,
    Rejected,
    Messages,
}

impl Column {
    pub const ALL: [Self; 8] =
        [Self::Stop, Self::Rate, Self::Waiting, Self::P50, Self::P99, Self::Dropped, Self::Rejected, Self::Messages];

    pub fn title(self) -> &'static str {
        match self {
            Self::Stop => "STOP",
            Self::Rate => "MSG/S",
            Self::Waiting => "WAITING",
            Self::P50 => "P50",
            Self::P99 => "P99",
            Self::Dropped => "DROPPED/S",
            Self::Rejected => "REJECTED/S",
            Self::Messages => "MESSAGES",
        }
    }

    fn beside(self, step: usize) -> Self {
        let place = Self::ALL.iter().position(|column| *column == self).unwrap_or(0);
        Self::ALL[(place + step) % Self::ALL.len()]
    }
}

/// A stop as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub stop: Stop,
    /// What waits on its topics; `None` where that is not known.
    pub waiting: Option<u64>,
}

pub struct View {
    picture: Option<Arc<Picture>>,
    pub sort: Column,
    /// The largest, or the last in the alphabet, comes first.
    pub descending: bool,
    pub filter: String,
    /// The filter is being typed.
    pub typing: bool,
    pub paused: bool,
    pub help: bool,
    /// The name of the stop that is looked at.
    pub selected: Option<String>,
    trends: HashMap<String, VecDeque<f64>>,
    done: bool,
}

impl View {
    pub fn new(sort: Column, filter: String) -> Self {
        Self {
            picture: None,
            sort,
            descending: sort != Column::Stop,
            filter,
            typing: false,
            paused: false,
            help: false,
            selected: None,
            trends: HashMap::new(),
            done: false,
        }
    }

    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Takes the newest picture, unless the present one is to stay.
    pub fn take(&mut self, picture: Arc<Picture>) {
        let known = self.picture.as_ref().is_some_and(|last| Arc::ptr_eq(last, &picture));
        if self.paused || known {
            return;
        }
        for stop in &picture.stops {
            let trend = self.trends.entry(stop.name.clone()).or_default();
            trend.push_back(stop.volume.rate);
            if trend.len() > TREND {
                trend.pop_front();
            }
        }
        self.trends.retain(|name, _| picture.stops.iter().any(|stop| stop.name == *name));
        self.picture = Some(picture);
    }

    pub fn picture(&self) -> Option<&Picture> {
        self.picture.as_deref()
    }

    /// The rates of a stop, the oldest first.
    pub fn trend(&self, stop: &str) -> impl Iterator<Item = f64> {
        self.trends.get(stop).into_iter().flatten().copied()
    }

    /// The stops that the filter lets through, in order.
    pub fn rows(&self) -> Vec<Row> {
        let Some(picture) = self.picture() else { return Vec::new() };
        let filter = self.filter.to_lowercase();
        let has = |text: &String| text.to_lowercase().contains(&filter);
        let wanted = picture.stops.iter().filter(|stop| has(&stop.name) || stop.topics.iter().any(has));
        let mut rows: Vec<_> = wanted.map(|stop| Row { stop: stop.clone(), waiting: waiting(picture, stop) }).collect();
        rows.sort_by(|a, b| {
            let order = self.order(a, b);
            // Of the same, by name, whatever the direction
            (if self.descending { order.reverse() } else { order }).then_with(|| a.stop.name.cmp(&b.stop.name))
        });
        rows
    }

    fn order(&self, a: &Row, b: &Row) -> Ordering {
        let by = |value: fn(&Row) -> f64| value(a).total_cmp(&value(b));
        match self.sort {
            Column::Stop => a.stop.name.cmp(&b.stop.name),
            Column::Rate => by(|row| row.stop.volume.rate),
            Column::Waiting => a.waiting.cmp(&b.waiting),
            Column::P50 => a.stop.took_us.map(|took| took.p50).cmp(&b.stop.took_us.map(|took| took.p50)),
            Column::P99 => a.stop.took_us.map(|took| took.p99).cmp(&b.stop.took_us.map(|took| took.p99)),
            Column::Dropped => by(|row| row.stop.verdict(Outcome::Dropped).rate),
            Column::Rejected => by(|row| row.stop.verdict(Outcome::Rejected).rate),
            Column::Messages => a.stop.volume.count.cmp(&b.stop.volume.count),
        }
    }

    /// The row that is looked at, among `rows`: where there are any, one is.
    pub fn place(&self, rows: &[Row]) -> Option<usize> {
        let selected = self.selected.as_deref();
        rows.iter().position(|row| Some(row.stop.name.as_str()) == selected).or((!rows.is_empty()).then_some(0))
    }

    fn step(&mut self, by: isize) {
        let rows = self.rows();
        if let Some(place) = self.place(&rows) {
            let place = place.saturating_add_signed(by).min(rows.len() - 1);
            self.selected = Some(rows[place].stop.name.clone());
        }
    }

    /// Does what a key asks for.
    pub fn press(&mut self, key: KeyCode, modifiers: KeyModifiers) {
        match key {
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => self.done = true,
            _ if self.typing => self.type_key(key),
            _ if self.help => self.help = false,
            KeyCode::Char('q') => self.done = true,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char(' ' | 'p') => self.paused = !self.paused,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('s') | KeyCode::Right => self.sort_by(self.sort.beside(1)),
            KeyCode::Char('S') | KeyCode::Left => self.sort_by(self.sort.beside(Column::ALL.len() - 1)),
            KeyCode::Char('r') => self.descending = !self.descending,
            KeyCode::Char('j') | KeyCode::Down => self.step(1),
            KeyCode::Char('k') | KeyCode::Up => self.step(-1),
            KeyCode::PageDown => self.step(10),
            KeyCode::PageUp => self.step(-10),
            KeyCode::End => self.step(isize::MAX),
            KeyCode::Home => self.step(isize::MIN),
            _ => {}
        }
    }

    /// Numbers begin with the largest, names with the first.
    fn sort_by(&mut self, column: Column) {
        self.sort = column;
        self.descending = column != Column::Stop;
    }

    fn type_key(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => _ = self.filter.pop(),
            KeyCode::Char(char) if !char.is_control() => self.filter.push(char),
            _ => {}
        }
    }
}

fn waiting(picture: &Picture, stop: &Stop) -> Option<u64> {
    let topics = picture.topics.iter().filter(|topic| stop.topics.contains(&topic.name));
    topics.filter_map(|topic| topic.lag).reduce(u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::{super::screen::tests::picture, *};

    fn names(view: &View) -> Vec<String> {
        view.rows().into_iter().map(|row| row.stop.name).collect()
    }

    fn press(view: &mut View, keys: &str) {
        for key in keys.chars() {
            view.press(KeyCode::Char(key), KeyModifiers::NONE);
        }
    }

    #[test]
    fn stops_are_sorted_and_filtered() {
        let mut view = View::new(Column::Stop, String::new());
        view.take(Arc::new(picture()));
        assert_eq!(names(&view), ["busdriver", "contactpoint", "whitelist"]);
        press(&mut view, "s");
        assert_eq!(
            (view.sort, names(&view)),
            (Column::Rate, vec!["busdriver".into(), "contactpoint".into(), "whitelist".into()])
        );
        press(&mut view, "r");
        assert_eq!(names(&view), ["whitelist", "contactpoint", "busdriver"]);
        press(&mut view, "sss");
        assert_eq!((view.sort, names(&view)[0].as_str()), (Column::P99, "contactpoint"));
        press(&mut view, "/ADDEM");
        view.press(KeyCode::Enter, KeyModifiers::NONE);
        assert_eq!(names(&view), ["contactpoint"]);
        view.press(KeyCode::Esc, KeyModifiers::NONE);
        assert_eq!(names(&view).len(), 3);
    }

    #[test]
    fn the_selection_stays_with_its_stop() {
        let mut view = View::new(Column::Stop, String::new());
        view.take(Arc::new(picture()));
        assert_eq!(view.place(&view.rows()), Some(0));
        press(&mut view, "j");
        assert_eq!(view.selected.as_deref(), Some("contactpoint"));
        press(&mut view, "sr");
        assert_eq!(view.place(&view.rows()), Some(1));
        view.press(KeyCode::End, KeyModifiers::NONE);
        assert_eq!(view.selected.as_deref(), Some("busdriver"));
        press(&mut view, "/nothing");
        assert_eq!(view.place(&view.rows()), None);
        view.press(KeyCode::Down, KeyModifiers::NONE);
    }

    #[test]
    fn while_it_is_paused_nothing_moves() {
        let mut view = View::new(Column::Stop, String::new());
        view.take(Arc::new(picture()));
        press(&mut view, " ");
        view.take(Arc::new(Picture { stops: Vec::new(), ..picture() }));
        assert_eq!(view.rows().len(), 3);
        press(&mut view, "p");
        view.take(Arc::new(Picture { stops: Vec::new(), ..picture() }));
        assert_eq!((view.rows().len(), view.trend("busdriver").count()), (0, 0));
    }

    #[test]
    fn it_ends_as_it_is_asked_to() {
        for (key, modifiers) in [('q', KeyModifiers::NONE), ('c', KeyModifiers::CONTROL)] {
            let mut view = View::new(Column::Stop, String::new());
            view.press(KeyCode::Char('c'), KeyModifiers::NONE);
            assert!(!view.is_done());
            view.press(KeyCode::Char(key), modifiers);
            assert!(view.is_done());
        }
        let mut view = View::new(Column::Stop, String::new());
        press(&mut view, "/q");
        assert!(!view.is_done() && view.filter == "q");
        view.press(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(view.is_done());
    }
}

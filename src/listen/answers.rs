//! Which status a request gets: what it takes to see retries.

use std::collections::{HashMap, VecDeque};

use axum::http::StatusCode;

/// So many ids are remembered, the last ones.
const REMEMBERED: usize = 100_000;

/// What requests are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In turn, the last one from then on; 200 where there is none.
    pub statuses: Vec<StatusCode>,
    /// So often each message is answered 500 first. Requests without an id are taken for one message.
    pub fail_first: u32,
}

/// What was answered so far.
pub struct Answers {
    plan: Plan,
    /// How many requests have come that the plan's statuses were for.
    answered: usize,
    /// How often each id has come.
    times: HashMap<String, u32>,
    order: VecDeque<String>,
}

impl Answers {
    pub fn new(plan: Plan) -> Self {
        Self { plan, answered: 0, times: HashMap::new(), order: VecDeque::new() }
    }

    /// Which time it is that a request with this id comes, from 1, and the status for it. Without an id, each is the first.
    pub fn next(&mut self, id: Option<&str>) -> (u32, StatusCode) {
        let time = self.count(id.unwrap_or_default());
        let status = match time <= self.plan.fail_first {
            true => StatusCode::INTERNAL_SERVER_ERROR,
            false => self.in_turn(),
        };
        (if id.is_some() { time } else { 1 }, status)
    }

    fn in_turn(&mut self) -> StatusCode {
        let statuses = &self.plan.statuses;
        let status = statuses.get(self.answered).or(statuses.last());
        let status = status.copied().unwrap_or(StatusCode::OK);
        self.answered = self.answered.saturating_add(1);
        status
    }

    fn count(&mut self, id: &str) -> u32 {
        if let Some(times) = self.times.get_mut(id) {
            *times = times.saturating_add(1);
            return *times;
        }
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.times.remove(&oldest);
        }
        self.order.push_back(id.to_owned());
        self.times.insert(id.to_owned(), 1);
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statuses(plan: Plan, ids: &[Option<&str>]) -> Vec<(u32, u16)> {
        let mut answers = Answers::new(plan);
        ids.iter().map(|id| answers.next(*id)).map(|(time, status)| (time, status.as_u16())).collect()
    }

    #[test]
    fn statuses_come_in_turn_and_the_last_one_stays() {
        let statuses_of = |codes: &[u16]| codes.iter().map(|code| StatusCode::from_u16(*code).unwrap()).collect();
        let ids = [Some("a"), Some("b"), Some("a"), None, None];
        let plan = |codes, fail_first| Plan { statuses: statuses_of(codes), fail_first };
        assert_eq!(statuses(plan(&[], 0), &ids), [(1, 200), (1, 200), (2, 200), (1, 200), (1, 200)]);
        assert_eq!(statuses(plan(&[500, 204], 0), &ids), [(1, 500), (1, 204), (2, 204), (1, 204), (1, 204)]);
        assert_eq!(statuses(plan(&[201], 1), &ids), [(1, 500), (1, 500), (2, 201), (1, 500), (1, 201)]);
    }

    #[test]
    fn only_so_many_ids_are_remembered() {
        let mut answers = Answers::new(Plan { statuses: Vec::new(), fail_first: 0 });
        for id in 0..=REMEMBERED {
            answers.next(Some(&id.to_string()));
        }
        assert_eq!(answers.times.len(), REMEMBERED);
        assert_eq!(answers.next(Some("1")).0, 2);
        assert_eq!(answers.next(Some("0")).0, 1);
    }
}

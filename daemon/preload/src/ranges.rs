//! The hidden ranges of one process, and what is left of a range without them. Pure.

use std::ops::Range;

/// Hidden address ranges: not empty, ascending, disjoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hidden(Vec<Range<u64>>);

impl Hidden {
    /// `None` if the ranges are empty, out of order or overlap.
    pub(crate) fn new(ranges: Vec<Range<u64>>) -> Option<Self> {
        let in_order = ranges.windows(2).all(|pair| pair[0].end <= pair[1].start);
        let filled = ranges.iter().all(|range| range.start < range.end);
        (in_order && filled).then_some(Self(ranges))
    }

    /// The parts of `range` that are not hidden, ascending.
    pub(crate) fn visible(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.0.partition_point(|hidden| hidden.end <= range.start);
        let mut hidden = self.0[first..].iter();
        let mut at = range.start;
        std::iter::from_fn(move || {
            while at < range.end {
                let (stop, next) = match hidden.next() {
                    Some(hidden) if hidden.start < range.end => (hidden.start, hidden.end),
                    _ => (range.end, range.end),
                };
                let visible = at..stop;
                at = next;
                if visible.start < visible.end {
                    return Some(visible);
                }
            }
            None
        })
    }

    /// The hidden range that `at` is in.
    pub(crate) fn around(&self, at: u64) -> Option<&Range<u64>> {
        let first = self.0.partition_point(|hidden| hidden.end <= at);
        self.0.get(first).filter(|hidden| hidden.contains(&at))
    }

    /// The parts of `range` that are hidden, ascending.
    pub(crate) fn hidden(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.0.partition_point(|hidden| hidden.end <= range.start);
        let end = range.end;
        self.0[first..]
            .iter()
            .take_while(move |hidden| hidden.start < end)
            .map(move |hidden| hidden.start.max(range.start)..hidden.end.min(range.end))
    }
}

#[cfg(test)]
#[expect(
    clippy::single_range_in_vec_init,
    reason = "sets of one range are sets"
)]
mod tests {
    use super::*;

    fn hidden(ranges: &[Range<u64>]) -> Hidden {
        Hidden::new(ranges.to_vec()).expect("in order")
    }

    #[test]
    fn ranges_that_are_empty_or_out_of_order_are_refused() {
        assert_eq!(Hidden::new(vec![1..1]), None);
        assert_eq!(Hidden::new(vec![3..4, 1..2]), None);
        assert_eq!(Hidden::new(vec![1..3, 2..4]), None);
        assert!(Hidden::new(vec![1..2, 2..4]).is_some());
    }

    /// Every byte of every range is in exactly one of the two answers, and in the right one.
    #[test]
    fn visible_and_hidden_parts_make_up_the_range() {
        let sets: &[&[Range<u64>]] = &[
            &[],
            &[0..3],
            &[2..4],
            &[2..4, 4..5, 7..9],
            &[0..20],
            &[19..20],
            &[5..6, 11..12],
        ];
        for set in sets {
            let hidden = hidden(set);
            for start in 0..20 {
                for end in start..=20 {
                    let mut map = [0; 20];
                    for part in hidden.visible(start..end) {
                        part.for_each(|at| map[usize::try_from(at).unwrap()] += 1);
                    }
                    for part in hidden.hidden(start..end) {
                        part.for_each(|at| map[usize::try_from(at).unwrap()] += 100);
                    }
                    for at in 0..20 {
                        let inside = (start..end).contains(&at);
                        let wanted = match set.iter().any(|range| range.contains(&at)) {
                            _ if !inside => 0,
                            true => 100,
                            false => 1,
                        };
                        assert_eq!(
                            map[usize::try_from(at).unwrap()],
                            wanted,
                            "{set:?} {start}..{end}"
                        );
                    }
                }
            }
        }
    }
}

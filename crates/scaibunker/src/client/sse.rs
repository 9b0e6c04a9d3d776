//! Server-sent events, as the HTML standard frames them.
//!
//! The bytes arrive cut anywhere, so the parser keeps the unfinished line between two pieces.
//! Lines end with LF, CR or CRLF; `event` and `data` fields count, comments and other fields are
//! passed over. What an event may hold is bounded: the server is a peer like any other.

/// Bytes of one line, and of one event's data.
const MAX_EVENT_BYTES: usize = 4 * 1024 * 1024;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// One event. Without an `event` field the name is `message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) data: String,
}

/// Why a stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SseError {
    #[error("an event is larger than {MAX_EVENT_BYTES} bytes")]
    TooLong,
    #[error("an event is not UTF-8")]
    NotUtf8,
}

/// Turns pieces of a body into events.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    /// The last byte was CR: an LF that follows belongs to it.
    after_cr: bool,
    /// The first line, which may start with a byte order mark, is over.
    past_first_line: bool,
    name: String,
    data: Option<String>,
}

impl Parser {
    /// Takes the next piece and returns the events that it completes.
    pub(super) fn push(&mut self, mut piece: &[u8]) -> Result<Vec<Event>, SseError> {
        let mut events = Vec::new();
        while !piece.is_empty() {
            if std::mem::take(&mut self.after_cr) && piece[0] == b'\n' {
                piece = &piece[1..];
                continue;
            }
            let end = piece.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (part, rest) = piece.split_at(end.unwrap_or(piece.len()));
            if self.line.len() + part.len() > MAX_EVENT_BYTES {
                return Err(SseError::TooLong);
            }
            self.line.extend_from_slice(part);
            piece = rest;
            if let Some((&terminator, rest)) = rest.split_first() {
                self.after_cr = terminator == b'\r';
                piece = rest;
                events.extend(self.end_line()?);
            }
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Result<Option<Event>, SseError> {
        let mut bytes = std::mem::take(&mut self.line);
        if !std::mem::replace(&mut self.past_first_line, true) && bytes.starts_with(BYTE_ORDER_MARK)
        {
            bytes.drain(..BYTE_ORDER_MARK.len());
        }
        if bytes.is_empty() {
            return Ok(self.dispatch());
        }
        let line = std::str::from_utf8(&bytes).map_err(|_| SseError::NotUtf8)?;
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => self.append(value)?,
            _ => {}
        }
        Ok(None)
    }

    fn append(&mut self, value: &str) -> Result<(), SseError> {
        match &mut self.data {
            None => self.data = Some(value.to_owned()),
            Some(data) if data.len() + 1 + value.len() > MAX_EVENT_BYTES => {
                return Err(SseError::TooLong);
            }
            Some(data) => {
                data.push('\n');
                data.push_str(value);
            }
        }
        Ok(())
    }

    /// A blank line ends an event; one without data is none.
    fn dispatch(&mut self) -> Option<Event> {
        let name = std::mem::take(&mut self.name);
        let data = self.data.take()?;
        Some(Event { name: if name.is_empty() { "message".to_owned() } else { name }, data })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.to_owned(), data: data.to_owned() }
    }

    fn parse(text: &[u8]) -> Vec<Event> {
        Parser::default().push(text).unwrap()
    }

    #[test]
    fn fields_comments_and_line_ends() {
        let text = "\u{feff}: keep-alive\n\nevent: stdout\r\ndata: a\rdata:b\ndata\n\nid: 1\n\n\
                    data: [DONE]\n\ndata: cut off\n";
        assert_eq!(parse(text.as_bytes()), [event("stdout", "a\nb\n"), event("message", "[DONE]")]);
    }

    #[test]
    fn an_event_without_data_leaves_no_name_behind() {
        assert_eq!(parse(b"event: stdout\n\ndata: x\n\n"), [event("message", "x")]);
    }

    #[test]
    fn lines_and_events_without_end_are_refused() {
        let piece = vec![b'x'; 1 << 20];
        let mut line = Parser::default();
        let pieces: Result<Vec<_>, _> = (0..5).map(|_| line.push(&piece)).collect();
        assert_eq!(pieces, Err(SseError::TooLong));

        let mut event = Parser::default();
        let data = [b"data: ".as_slice(), &piece, b"\n"].concat();
        let pieces: Result<Vec<_>, _> = (0..5).map(|_| event.push(&data)).collect();
        assert_eq!(pieces, Err(SseError::TooLong));
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        assert_eq!(Parser::default().push(b"data: \xff\n"), Err(SseError::NotUtf8));
    }

    proptest! {
        #[test]
        fn the_cuts_do_not_matter(
            text in "(event: [a-z]{0,4}|data:? ?[a-zü]{0,6}|: c|)((\n|\r|\r\n){1,2}(event: [a-z]{0,4}|data:? ?[a-zü]{0,6}|)){0,12}",
            cuts in proptest::collection::vec(0usize..200, 0..12),
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut parser = Parser::default();
            let mut events = Vec::new();
            for pair in cuts.windows(2) {
                events.extend(parser.push(&bytes[pair[0]..pair[1]]).unwrap());
            }
            prop_assert_eq!(events, parse(bytes));
        }

        #[test]
        fn what_is_written_is_read(name in "[a-z]{1,8}", data in "[^\r\n]{0,40}") {
            let text = format!("event: {name}\ndata: {data}\n\n");
            prop_assert_eq!(parse(text.as_bytes()), [event(&name, &data)]);
        }

        #[test]
        fn no_bytes_make_it_panic(pieces in proptest::collection::vec(any::<Vec<u8>>(), 0..8)) {
            let mut parser = Parser::default();
            for piece in pieces {
                if parser.push(&piece).is_err() {
                    break;
                }
            }
        }
    }
}

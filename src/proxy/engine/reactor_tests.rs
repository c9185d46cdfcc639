use super::*;
use crate::engine::{
    buffer::Buffer,
    relay,
    stream::Stream,
    timer::Side,
    wire::{Trouble, Wire},
};
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    time::{Duration, Instant},
};

/// A connection on the loop and its other end.
fn pair(reactor: &Rc<Reactor>) -> (Wire, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    (Wire::plain(Stream::accepted(ours.into(), reactor)), other)
}

/// Turns the loop until all tasks are over.
fn finish(reactor: &Reactor) {
    let end = Instant::now() + Duration::from_secs(20);
    while reactor.tasks.borrow().live() {
        assert!(Instant::now() < end, "a task does not end");
        reactor.turn(&mut |_| {}).unwrap();
    }
}

#[test]
fn a_task_that_panics_ends_alone() {
    let reactor = Rc::new(Reactor::new(Arc::new(Summons::new().unwrap())).unwrap());
    let (done, told) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
    reactor.spawn(|_| async { panic!("a defect, as told") });
    for flag in [&done, &told] {
        let flag = flag.clone();
        reactor.spawn(|timer| async move {
            timer.piece(&mut (super::super::timer::BURST - 1)).await;
            flag.set(true);
        });
    }
    finish(&reactor);
    assert!(done.get() && told.get());
}

#[test]
fn a_half_busy_loop_rests_between_its_rounds_while_many_are_at_work() {
    let reactor = Rc::new(Reactor::new(Arc::new(Summons::new().unwrap())).unwrap());
    let (wires, mut others): (Vec<_>, Vec<_>) = (0..45).map(|_| pair(&reactor)).unzip();
    for wire in wires {
        reactor.spawn(|timer| async move {
            let mut buffer = Buffer::default();
            while wire.fill(&mut buffer, &timer, Side::Client).await.is_ok() {}
        });
    }
    while reactor.turn(&mut |_| {}).is_ok() && reactor.events.get() < 45 {}
    let mut shortest = |events: usize, active: usize| {
        let mut shortest = Duration::MAX;
        for _ in 0..100 {
            others[..events].iter_mut().for_each(|o| o.write_all(b"x").unwrap());
            reactor.turn(&mut |_| {}).unwrap();
            others[0].write_all(b"y").unwrap();
            reactor.tasks.borrow_mut().active.1 = active;
            let began = Instant::now();
            reactor.turn(&mut |_| {}).unwrap();
            shortest = shortest.min(began.elapsed());
        }
        shortest
    };
    let rest = Duration::from_nanos(REST_NS as u64);
    assert!(shortest(20, 80) >= rest, "half busy");
    for (events, active) in [(2, 80), (45, 200), (20, 50)] {
        let took = shortest(events, active);
        assert!(took < rest, "{events} events of {active}: {took:?}");
    }
}

#[test]
fn a_task_is_at_work_when_it_ran_in_the_last_tick() {
    let mut tasks = Tasks::default();
    tasks.slots.resize_with(3, Slot::default);
    for (ran, want) in [(vec![0, 1, 1], 2), (vec![1], 1), (vec![], 0)] {
        tasks.ticked();
        ran.into_iter().for_each(|id| drop(tasks.take(id)));
        tasks.ticked();
        assert_eq!(tasks.active.1, want);
    }
}

#[test]
fn a_read_waits_for_bytes_the_end_or_its_deadline() {
    let reactor = Rc::new(Reactor::new(Arc::new(Summons::new().unwrap())).unwrap());
    let (wire, mut other) = pair(&reactor);
    let (quiet, _other) = pair(&reactor);
    reactor.spawn(|timer| async move {
        let mut buffer = Buffer::default();
        assert_eq!(wire.fill(&mut buffer, &timer, Side::Client).await.unwrap(), 5);
        assert_eq!(buffer.bytes(), b"hello");
        assert!(matches!(wire.fill(&mut buffer, &timer, Side::Client).await, Err(Trouble::Closed)));
        timer.arm(Side::Backend, 20);
        let late = quiet.fill(&mut buffer, &timer, Side::Backend).await;
        assert!(matches!(late, Err(Trouble::Timeout)), "{late:?}");
    });
    reactor.turn(&mut |_| {}).unwrap();
    other.write_all(b"hello").unwrap();
    other.shutdown(Shutdown::Write).unwrap();
    finish(&reactor);
}

#[test]
fn what_is_followed_by_the_end_waits_for_it() {
    let reactor = Rc::new(Reactor::new(Arc::new(Summons::new().unwrap())).unwrap());
    let (wire, mut other) = pair(&reactor);
    other.set_nonblocking(true).unwrap();
    reactor.spawn(|timer| async move {
        wire.write_all(b"a", &timer, Side::Client).await.unwrap();
        assert_eq!(other.read(&mut [0; 9]).unwrap(), 1);
        wire.end_follows();
        wire.write_all(b"last", &timer, Side::Client).await.unwrap();
        assert!(other.read(&mut [0; 9]).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock));
        wire.shutdown(&timer, Side::Client).await.unwrap();
        assert_eq!([other.read(&mut [0; 9]).unwrap(), other.read(&mut [0; 9]).unwrap()], [4, 0]);
        drop((wire, other));
    });
    finish(&reactor);
}

#[test]
fn bulk_data_arrives_as_it_was_sent_while_its_reader_stalls() {
    const SIZE: usize = 6_000_000;
    let reactor = Rc::new(Reactor::new(Arc::new(Summons::new().unwrap())).unwrap());
    let ((client, mut sender), (backend, mut receiver)) = (pair(&reactor), pair(&reactor));
    reactor.spawn(|timer| async move {
        assert!(relay::relay(&timer, 10_000, &client, &backend, Default::default()).await);
        assert_eq!((client.read(), backend.written()), (SIZE as u64, SIZE as u64));
    });
    let sent: Vec<u8> = (0..SIZE).map(|i| (i / 7) as u8).collect();
    let want = sent.clone();
    let sending = std::thread::spawn(move || {
        sender.write_all(&sent).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
        assert_eq!(sender.read(&mut [0]).unwrap(), 0);
    });
    let receiving = std::thread::spawn(move || {
        let (mut got, mut piece) = (Vec::with_capacity(SIZE), vec![0; 300_000]);
        loop {
            match receiver.read(&mut piece).unwrap() {
                0 => break,
                n => got.extend_from_slice(&piece[..n]),
            }
            std::thread::sleep(Duration::from_millis(1)); // the pipe and the socket run full
        }
        receiver.shutdown(Shutdown::Write).unwrap();
        assert!(got == want);
    });
    finish(&reactor);
    sending.join().unwrap();
    receiving.join().unwrap();
}

/// What had to pause (a door, when the system has no descriptors) goes on with a tick: there is one before the first task.
#[test]
fn it_ticks_without_a_task() {
    let (said, ticks) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let reactor = Reactor::new(Arc::new(Summons::new().unwrap())).unwrap();
        for _ in 0..2 {
            let _ = reactor.turn(&mut |notice| said.send(matches!(notice, Notice::Tick)).unwrap());
        }
    });
    for _ in 0..2 {
        assert_eq!(ticks.recv_timeout(Duration::from_secs(20)), Ok(true));
    }
}

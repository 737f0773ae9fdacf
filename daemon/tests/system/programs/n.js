// A buffer of 2 MiB is summed at every tick of a timer.
const buffer = Buffer.alloc(2 << 20, 45);
let tick = 0;
setInterval(() => {
  let sum = 0;
  for (let at = 0; at < buffer.length; at += 64) sum += buffer[at];
  console.log(`tick ${tick++} sum ${sum}`);
}, 100);

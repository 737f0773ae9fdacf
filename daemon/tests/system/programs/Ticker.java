/** Prints: tick, milliseconds since the tick before by the monotonic clock, firings of a timer, a sum. */
public class Ticker {
    public static void main(String[] arguments) throws Exception {
        byte[][] memory = new byte[64][];
        for (int block = 0; block < memory.length; block++) {
            memory[block] = new byte[1 << 20];
            java.util.Arrays.fill(memory[block], (byte) block);
        }
        int[] fired = {0};
        java.util.Timer timer = new java.util.Timer(true);
        timer.schedule(new java.util.TimerTask() {
            @Override
            public void run() {
                fired[0]++;
            }
        }, 50, 50);
        long last = System.nanoTime();
        for (int tick = 0; ; tick++) {
            long now = System.nanoTime();
            long sum = 0;
            for (byte[] block : memory) {
                sum += block[777];
            }
            System.out.println(
                "tick " + tick + " gap " + (now - last) / 1000000 + " timer " + fired[0] + " sum " + sum);
            last = now;
            Thread.sleep(100);
        }
    }
}

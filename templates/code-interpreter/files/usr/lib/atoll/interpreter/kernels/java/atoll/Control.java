// Runs what the shell has compiled: each snippet in a thread that can be stopped, and keeps its value.
package atoll;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import jdk.jshell.execution.DirectExecutionControl;

final class Control extends DirectExecutionControl {
    /** What the last snippet was worth. */
    volatile Object value;

    private Thread running;
    private boolean stopped;

    synchronized void begin() {
        stopped = false;
    }

    synchronized boolean stopped() {
        return stopped;
    }

    @Override
    protected String invoke(Method method) throws Exception {
        Throwable[] failure = new Throwable[1];
        Thread thread = new Thread(() -> {
            try {
                value = method.invoke(null);
            } catch (InvocationTargetException problem) {
                failure[0] = problem.getCause();
            } catch (Throwable problem) {
                failure[0] = problem;
            }
        }, "main");
        synchronized (this) {
            if (stopped) {
                throw new StoppedException();
            }
            running = thread;
            thread.start();
        }
        thread.join();
        synchronized (this) {
            running = null;
            if (stopped) {
                throw new StoppedException();
            }
        }
        if (failure[0] != null) {
            throw new InvocationTargetException(failure[0]);
        }
        return ""; // the value itself is kept
    }

    /** Ends what runs, and what would run after it in the same execution. */
    @Override
    @SuppressWarnings({"deprecation", "removal"})
    public synchronized void stop() {
        stopped = true;
        if (running != null) {
            running.stop();
        }
    }
}

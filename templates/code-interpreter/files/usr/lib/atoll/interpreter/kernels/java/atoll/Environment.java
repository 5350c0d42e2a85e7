// Variables of the environment. Java has them read-only, so each is a system property, too; those of one execution are put
// into both, and taken out after it.
package atoll;

import java.lang.reflect.Field;
import java.util.HashMap;
import java.util.Map;

final class Environment {
    private final Map<String, String> changeable;

    Environment() {
        changeable = changeable();
        System.getenv().forEach((name, value) -> {
            if (System.getProperty(name) == null) {
                System.setProperty(name, value);
            }
        });
    }

    void with(Map<String, String> variables, Runnable work) {
        Map<String, String> properties = new HashMap<>();
        Map<String, String> before = new HashMap<>();
        variables.forEach((name, value) -> {
            properties.put(name, System.getProperty(name));
            before.put(name, changeable.get(name));
            set(name, value, value);
        });
        try {
            work.run();
        } finally {
            properties.forEach((name, value) -> set(name, value, before.get(name)));
        }
    }

    private void set(String name, String property, String variable) {
        if (property == null) {
            System.clearProperty(name);
        } else {
            System.setProperty(name, property);
        }
        if (variable == null) {
            changeable.remove(name);
        } else {
            changeable.put(name, variable);
        }
    }

    /** What System.getenv shows, without its guard. */
    @SuppressWarnings("unchecked")
    private static Map<String, String> changeable() {
        try {
            Map<String, String> guarded = System.getenv();
            Field inner = guarded.getClass().getDeclaredField("m");
            inner.setAccessible(true);
            return (Map<String, String>) inner.get(guarded);
        } catch (ReflectiveOperationException absent) {
            throw new IllegalStateException(absent);
        }
    }
}

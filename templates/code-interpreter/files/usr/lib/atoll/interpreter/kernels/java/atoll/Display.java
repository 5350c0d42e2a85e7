// Says what code shows: values by their kind, and texts of any mime type.
package atoll;

import java.awt.image.BufferedImage;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.Map;
import javax.imageio.ImageIO;

public final class Display {
    private static OutputStream out;

    private Display() {}

    static void to(OutputStream stream) {
        out = stream;
    }

    /** Shows a value. */
    public static void display(Object value) {
        show(value, false);
    }

    /** Shows data of a mime type, such as text/html; of image/png and the like in base64. */
    public static void display(String mime, String data) {
        say("{\"result\":" + object(Map.of(mime, data)) + ",\"main\":false}");
    }

    static void show(Object value, boolean main) {
        Map<String, String> forms = new LinkedHashMap<>();
        try {
            forms.put("text/plain", text(value));
            if (value instanceof BufferedImage image) {
                ByteArrayOutputStream bytes = new ByteArrayOutputStream();
                ImageIO.write(image, "png", bytes);
                forms.put("image/png", Base64.getEncoder().encodeToString(bytes.toByteArray()));
            }
        } catch (Throwable problem) { // a toString of somebody's
            error(problem.getClass().getName(), String.valueOf(problem.getMessage()), problem.toString());
            return;
        }
        say("{\"result\":" + object(forms) + ",\"main\":" + main + "}");
    }

    static void error(String name, String value, String traceback) {
        Map<String, String> error = new LinkedHashMap<>();
        error.put("name", name);
        error.put("value", value);
        error.put("traceback", traceback);
        say("{\"error\":" + object(error) + "}");
    }

    static void done() {
        say("{\"done\":true}");
    }

    private static String text(Object value) {
        if (value == null || !value.getClass().isArray()) {
            return String.valueOf(value);
        }
        String text = Arrays.deepToString(new Object[] {value});
        return text.substring(1, text.length() - 1);
    }

    private static synchronized void say(String line) {
        try {
            out.write((line + "\n").getBytes(StandardCharsets.UTF_8));
        } catch (IOException gone) {
            System.exit(1); // nobody listens any more
        }
    }

    private static String object(Map<String, String> fields) {
        StringBuilder json = new StringBuilder("{");
        fields.forEach((name, value) -> json.append(json.length() > 1 ? "," : "").append(string(name)).append(":").append(string(value)));
        return json.append("}").toString();
    }

    private static String string(String text) {
        StringBuilder json = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                json.append('\\').append(c);
            } else if (c < 0x20 || Character.isSurrogate(c)) {
                json.append(String.format("\\u%04x", (int) c));
            } else {
                json.append(c);
            }
        }
        return json.append('"').toString();
    }
}

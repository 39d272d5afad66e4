// The request of the page as a command and as a program, for people to paste.

// A value as JSON in a here-document of the shell, in which $( ) is carried out. Strings that are the token and a number
// become the images with that number, read from their files.
function shellJson(body, token, images) {
  const json = JSON.stringify(body, null, 2).replace(/[\\$`]/g, "\\$&");
  return json.replace(new RegExp(`"${token}(\\d+)"`, "g"), (_, index) => {
    const { type, name } = images[Number(index)];
    return `"data:${type};base64,$(base64 < ${shellWord(name)} | tr -d '\\n')"`;
  });
}

function shellWord(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

// A value as a Python literal, with variables for images.
function pythonValue(value, token, indent) {
  const inner = indent + "    ";
  if (Array.isArray(value)) {
    const items = value.map((item) => `${inner}${pythonValue(item, token, inner)},\n`);
    return `[\n${items.join("")}${indent}]`;
  }
  if (typeof value === "object") {
    const items = Object.entries(value).map(
      ([key, item]) => `${inner}${pythonText(key)}: ${pythonValue(item, token, inner)},\n`,
    );
    return `{\n${items.join("")}${indent}}`;
  }
  if (typeof value === "boolean") {
    return value ? "True" : "False";
  }
  return value.startsWith(token) ? `image_${value.slice(token.length)}` : pythonText(value);
}

// JSON's strings are Python's, except that Python ends a line where JSON does not.
function pythonText(text) {
  return JSON.stringify(text).replace(
    /[\u007f-\u009f\u2028\u2029]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

export function curlCommand(base, body, token, images, needsKey) {
  const lines = [`curl ${base}/chat/completions`, '  -H "Content-Type: application/json"'];
  if (needsKey) {
    lines.push('  -H "Authorization: Bearer $VISIONWARD_API_KEY"');
  }
  lines.push(`  --data-binary @- <<JSON\n${shellJson(body, token, images)}\nJSON`);
  return lines.join(" \\\n");
}

export function pythonProgram(base, body, token, images, needsKey) {
  const imports = [images.length ? "import base64" : "", needsKey ? "import os" : ""];
  if (images.length) {
    imports.push("from pathlib import Path");
  }
  const standard = imports.filter(Boolean).join("\n");
  const key = needsKey ? 'os.environ["VISIONWARD_API_KEY"]' : '"none"';
  const { model, messages, visionward } = body;
  return [
    ...(standard ? [standard, ""] : []),
    "from openai import OpenAI",
    "",
    ...images.map(({ type, name }, index) => {
      const data = `base64.b64encode(Path(${pythonText(name)}).read_bytes()).decode()`;
      return `image_${index} = ${pythonText(`data:${type};base64,`)} + ${data}`;
    }),
    `client = OpenAI(base_url=${pythonText(base)}, api_key=${key})`,
    "completion = client.chat.completions.create(",
    `    model=${pythonText(model)},`,
    `    messages=${pythonValue(messages, token, "    ")},`,
    ...(visionward ? [`    extra_body=${pythonValue({ visionward }, token, "    ")},`] : []),
    ")",
    "print(completion.choices[0].message.content)",
  ].join("\n");
}

"""Chat templates in the shape of published models', one of each family's tricks.

Their texts are ours; what they do to a conversation, its roles and its white space is
what templates in the wild do.
"""

CHATML = """{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{% endif %}
"""
SMOLLM2 = (
    "{%- for message in messages -%}"
    "{%- if loop.first and message.role != 'system' -%}"
    "{{ '<|im_start|>system\\nYou help wherever you can.<|im_end|>\\n' }}"
    "{%- endif -%}"
    "{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
LLAMA2 = """{% if messages[0]['role'] == 'system' %}
    {% set turns = messages[1:] %}
    {% set system = messages[0]['content'] %}
{% else %}
    {% set turns = messages %}
    {% set system = false %}
{% endif %}
{% for message in turns %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('user and assistant must take turns') }}
    {% endif %}
    {% if loop.first and system %}
        {% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}
    {% else %}
        {% set content = message['content'] %}
    {% endif %}
    {% if message['role'] == 'user' %}
        {{- bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {% elif message['role'] == 'assistant' %}
        {{- ' ' + content.strip() + ' ' + eos_token }}
    {% endif %}
{% endfor %}"""
LLAMA3 = """{{- bos_token }}
{%- for message in messages %}
    {{- '<|start|>' + message['role'] + '<|end|>\\n\\n' + message['content'] | trim }}
    {{- '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|end|>\\n\\n' }}
{%- endif %}
"""
MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system = messages[0]["content"] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- set users = turns | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- for message in turns %}
    {%- if message["role"] == "user" %}
        {%- if system is defined and message == users[-1] %}
            {{- "[INST] " + system + "\\n\\n" + message["content"] + " [/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + " [/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] + eos_token }}
    {%- else %}
        {{- raise_exception("only user and assistant, not " + message["role"]) }}
    {%- endif %}
{%- endfor %}
"""
QWEN2 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- '# Tools\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
        {{- '\\n' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are a model.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
        {{- '<|im_start|>assistant\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('There is no role for a system message') }}{% endif %}"
    "{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<|start|>' + role + '\\n' + message['content'] | trim + '<|end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>model\\n' }}{% endif %}"
)
# A namespace that the loop writes to; the last turn has another format.
NAMESPACE = """{% set state = namespace(system='', turns=0) %}
{%- for message in messages if message.role == 'system' %}
    {%- set state.system = state.system + message.content %}
{%- endfor %}
{{- bos_token }}{{ state.system }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- set state.turns = state.turns + 1 %}
        {{- '<|user|>' ~ state.turns ~ ': ' ~ message.content }}
    {%- elif message.role == 'assistant' %}
        {{- '<|assistant|>' ~ message.content ~ ('' if loop.last else eos_token) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""
# Marks answers for training, skips messages, stops early.
GENERATION = """{% for message in messages %}
    {% if message.role == 'system' %}
        {% continue %}
    {% endif %}
    {% if loop.index > 9 %}
        {% break %}
    {% endif %}
    {% if message.role == 'assistant' %}
        {% set kind = 'outer' %}
        {% generation %}
            {% set kind = 'inner' %}
{{ message.content }}{{ eos_token }}
        {% endgeneration %}
{{ kind }}
    {% else %}
### {{ message.role | capitalize }}:
{{ message.content }}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}### Answer:{% endif %}
"""
# Content in parts, a macro, other special tokens, JSON with its own indent.
PARTS = """{%- macro text(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content if part.type == 'text' -%}{{- part.text -}}{%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
    {{- message.role[0] | upper ~ '> ' ~ text(message.content) | replace('\\n', ' ') }}
    {{- unk_token if message.name is defined else '' }}
    {{- {'<role>': message.role, 'é': [1, none]} | tojson(indent=2) ~ '\\n' }}
{%- endfor -%}
{{- 'A> ' if add_generation_prompt else eos_token -}}"""
# What else templates call: the date (here: a pattern without one), dict, range, items.
FUNCTIONS = """{{ strftime_now("100 %%") }} {{ pad_token is defined }}
{% for key, value in dict(a=1, b='<').items() %}{{ key }}={{ value }};{% endfor %}
{% for i in range(messages | length) %}{{ loop.cycle('q', 'a') }}{{ i }}{% endfor +%}
{{ messages | map(attribute='content') | join(' / ') }}
{%- if add_generation_prompt %} ->{% endif %}"""

FAMILIES = {
    "chatml": CHATML,
    "smollm2": SMOLLM2,
    "llama2": LLAMA2,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "zephyr": ZEPHYR,
    "gemma": GEMMA,
    "namespace": NAMESPACE,
    "generation": GENERATION,
    "parts": PARTS,
    "functions": FUNCTIONS,
}
